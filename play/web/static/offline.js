/* Keeps every file of the page, so that it works without a network. All files are of one build: a
   visit uses either those that are kept, or, where the host has another build, the host's. */

const PREFIX = "videogpt-dream ";

async function build() {
  return (await fetch("site.json", { cache: "no-cache" })).json();
}

async function keep({ version, bytes }) {
  const cache = await caches.open(PREFIX + version);
  try {
    await cache.addAll(["./", ...Object.keys(bytes)]);
  } catch (error) {
    await caches.delete(PREFIX + version);
    throw error;
  }
}

async function forget() {
  for (const name of await caches.keys()) {
    if (name.startsWith(PREFIX)) await caches.delete(name);
  }
}

/** The page itself: first of all that a visit asks for. */
async function visit(event) {
  let newest = null;
  try {
    newest = await build();
  } catch {
    return (await caches.match("./")) ?? Response.error(); // no network
  }
  if (!(await caches.has(PREFIX + newest.version))) {
    await forget();
    event.waitUntil(keep(newest).catch(() => {}));
    return fetch(event.request);
  }
  return (await caches.match("./")) ?? fetch(event.request);
}

async function other(request) {
  return (await caches.match(request, { ignoreSearch: true })) ?? fetch(request);
}

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(build().then(keep));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { method, mode } = event.request;
  if (method !== "GET") return;
  event.respondWith(mode === "navigate" ? visit(event) : other(event.request));
});
