// The settings that a PNG carries, as a request that draws it again.

import { readPicture } from "./api.js";
import { dataUrl } from "./dom.js";

/** {request, notes} of a file. models: those that are served. Throws what says why there is none. */
export async function requestOf(file, models) {
  const url = await dataUrl(file);
  const { items } = await readPicture(url);
  if (!items.pyengine) throw new Error("This picture carries no settings of pyengine.");
  const settings = JSON.parse(items.pyengine);
  const notes = [];
  const model = models.find((served) => served.name === settings.model)
    ?? models.find((served) => served.hash === settings.model_hash);
  if (!model) notes.push(`${settings.model} is not served here.`);
  else if (model.hash !== settings.model_hash) notes.push("The model's weights are others.");
  const request = { model: model?.name, prompt: settings.prompt };
  for (const row of (model ?? models[0]).inputs) {
    const value = row.setting ? settings[row.setting] : null;
    if (value !== null && value !== undefined && value !== row.default) request[row.name] = value;
  }
  if (settings.init_image || settings.mask || settings.prefix || settings.original_image) {
    notes.push("It was made of another picture, which is to be given again.");
  } else {
    delete request.strength;
  }
  if (Number.isSafeInteger(settings.seed)) request.seed = settings.seed;
  else notes.push("Its seed is larger than a browser can hold.");
  return { request, notes };
}
