"""OpenAI's client against `pyengine serve emoji`.

python examples/openai_client.py http://127.0.0.1:8000 pictures
"""

import argparse
import base64
from pathlib import Path

import openai


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("address")
    options.add_argument("folder", type=Path)
    options.add_argument("--api-key", default="none")
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    client = openai.OpenAI(base_url=f"{given.address}/v1", api_key=given.api_key)
    model = client.models.list().data[0].id

    # Two pictures. Arguments that OpenAI does not have are extra fields.
    extra = {"seed": 1, "num_inference_steps": 8, "negative_prompt": "blue"}
    answer = client.images.generate(model=model, prompt="a red heart", n=2, extra_body=extra)
    for i, picture in enumerate(answer.data or []):
        (given.folder / f"heart-{i}.png").write_bytes(base64.b64decode(picture.b64_json or ""))

    # One that is watched: true pictures of steps on the way.
    stream = client.images.generate(
        model=model, prompt="a rocket", stream=True, partial_images=2, extra_body={"seed": 2}
    )
    for event in stream:
        if event.type == "image_generation.partial_image":
            name = f"rocket-partial-{event.partial_image_index}.png"
        else:
            name = "rocket.png"
        (given.folder / name).write_bytes(base64.b64decode(event.b64_json))

    # Errors name the field.
    try:
        client.images.generate(model=model, prompt="a tree", extra_body={"num_inference_steps": -1})
    except openai.BadRequestError as e:
        body = e.body if isinstance(e.body, dict) else {}
        print(f"refused: {e.param}: {body.get('message')}")


if __name__ == "__main__":
    main()
