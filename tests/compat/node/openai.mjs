// What a program with the stock client does; prints what it saw as JSON. node openai.mjs URL
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const failure = (promise) => promise.then(() => null, ({ status, code, param, message }) => ({ status, code, param, message }));
const over = async (id) => {
  for (;;) {
    const video = await client.videos.retrieve(id);
    if (video.status === "completed" || video.status === "failed") return video;
    await new Promise((later) => setTimeout(later, 50));
  }
};

const seen = {};
seen.models = (await client.models.list()).data.map(({ id }) => id);
seen.model = (await client.models.retrieve("test-tiny")).id;
seen.noModel = await failure(client.models.retrieve("sora-2"));
const order = { prompt: "a bar", seconds: "1", size: "128x128", model: "test-tiny" };
const once = { headers: { "Idempotency-Key": "once" } };
const first = await client.videos.create(order, once);
seen.again = (await client.videos.create(order, once)).id === first.id;
seen.fresh = [first.object, first.progress, first.error];
seen.early = await failure(client.videos.downloadContent(first.id));
const video = await over(first.id);
seen.status = video.status;
seen.film = (await (await client.videos.downloadContent(video.id)).arrayBuffer()).byteLength;
seen.thumbnail = (await client.videos.downloadContent(video.id, { variant: "thumbnail" })).headers.get("content-type");
const remix = await client.videos.remix(video.id, { prompt: "a mill" });
seen.remixed = remix.remixed_from_video_id === video.id;
const longer = await client.videos.extend({ video: { id: video.id }, prompt: "a bar", seconds: "4" });
seen.longer = [longer.status, longer.progress];
const picture = await toFile(Buffer.from(process.argv[3], "base64"), "first.png", { type: "image/png" });
seen.picture = (await client.videos.create({ ...order, input_reference: picture })).status;
seen.edit = await failure(client.videos.edit({ video: { id: video.id }, prompt: "a bar" }));
seen.character = await failure(client.videos.createCharacter({ name: "x", video: await toFile(Buffer.from("x"), "x.mp4") }));
seen.noCharacter = await failure(client.videos.getCharacter("char_1"));
seen.wrong = await failure(client.videos.create({ ...order, size: "1x1" }));
const listed = [];
for await (const { id } of client.videos.list({ limit: 1, order: "asc" })) listed.push(id);
seen.listed = [listed.length, new Set(listed).size, listed[0] === first.id];
seen.deleted = [];
for (const id of listed) seen.deleted.push((await client.videos.delete(id)).deleted);
seen.gone = await failure(client.videos.retrieve(first.id));
console.log(JSON.stringify(seen));
