/* Keeps every file of the page, so that it works without a network. All files are of one build: a
   visit uses either those that are kept, or, where the host has another build, the host's. */

// Other dreams may be on the same host.
const PREFIX = `videogpt-dream ${self.registration.scope} `;

async function build() {
  return (await fetch("site.json", { cache: "no-cache" })).json();
}

async function keep({ version, bytes }) {
  const cache = await caches.open(PREFIX + version);
  try {
    // Not from the browser's own cache, which may hold files of an earlier build.
    const files = ["./", ...Object.keys(bytes)];
    await cache.addAll(files.map((file) => new Request(file, { cache: "reload" })));
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

/** The answer in this page's own cache, if any. */
async function kept(request) {
  for (const name of await caches.keys()) {
    if (!name.startsWith(PREFIX)) continue;
    return (await caches.open(name)).match(request, { ignoreSearch: true });
  }
  return undefined;
}

/** The page itself: first of all that a visit asks for. */
async function visit(event) {
  let newest = null;
  try {
    newest = await build();
  } catch {
    return (await kept("./")) ?? Response.error(); // no network
  }
  if (!(await caches.has(PREFIX + newest.version))) {
    await forget();
    event.waitUntil(keep(newest).catch(() => {}));
    return fetch(event.request);
  }
  return (await kept("./")) ?? fetch(event.request);
}

async function other(request) {
  return (await kept(request)) ?? fetch(request);
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
