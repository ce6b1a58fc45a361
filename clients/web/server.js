// What the page asks over plain HTTP: is the server warm, and what does its model know.

const PATIENCE_MS = 5_000;

async function ask(path) {
  const response = await fetch(new URL(path, document.baseURI), { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  const body = await response.json().catch(() => ({}));
  return { status: response.status, body };
}

/** {state: "ready" | "warming" | "away", reason}: whether a stream would begin at once. */
export async function readiness() {
  try {
    const { status, body } = await ask("readyz");
    if (status === 503) return { state: "warming", reason: body.message ?? body.error?.message ?? "" };
    return { state: "ready", reason: "" };
  } catch {
    return { state: "away", reason: "" };
  }
}

/** The models that the server offers, [] when it does not say. */
export async function models() {
  try {
    const { body } = await ask("v1/models");
    return Array.isArray(body.data) ? body.data : [];
  } catch {
    return [];
  }
}
