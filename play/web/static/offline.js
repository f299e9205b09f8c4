/* Keeps every file of the page, so that it works without a network. */

const PREFIX = "videogpt-dream ";

async function site() {
  return (await fetch("site.json", { cache: "no-cache" })).json();
}

self.addEventListener("install", (event) => {
  const keep = async () => {
    const { version, bytes } = await site();
    const cache = await caches.open(PREFIX + version);
    await cache.addAll(["./", ...Object.keys(bytes)]);
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  const answer = async () => {
    // The newest build where there is a network; site.json says which it is.
    if (new URL(event.request.url).pathname.endsWith("/site.json")) {
      try {
        const response = await fetch(event.request, { cache: "no-cache" });
        await forgetOthers(await response.clone().json());
        return response;
      } catch {
        return (await caches.match(event.request)) ?? Response.error();
      }
    }
    return (await caches.match(event.request, { ignoreSearch: true })) ?? fetch(event.request);
  };
  event.respondWith(answer());
});

async function forgetOthers({ version, bytes }) {
  const names = (await caches.keys()).filter((name) => name.startsWith(PREFIX));
  if (names.includes(PREFIX + version)) return;
  const cache = await caches.open(PREFIX + version);
  await cache.addAll(["./", ...Object.keys(bytes)]);
  for (const name of names) await caches.delete(name);
}
