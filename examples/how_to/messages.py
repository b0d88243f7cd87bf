"""What a prompt can be: a conversation, pictures and files, another library's JSON; and embeddings."""

# region conversation
import asyncio
import base64

from llmpipe import Chain, Document, Image, Message, MockProvider, Text, dialects


async def main() -> None:
    model = MockProvider(["Goethe.", "In 1808."], default="It is.")
    async with Chain(model) as chain:
        history = [Message("system", "Answer in one sentence.")]
        for said in ("Who wrote Faust?", "When?"):
            question = Message("user", said)
            done = await chain.complete([*history, question])
            history += [question, done.message]  # only what was answered joins
            print(done.text)
        # endregion conversation

        # region parts
        picture = base64.b64encode(b"\x89PNG\r\n").decode()  # yours: the bytes of cat.png
        await chain.complete(
            Message(
                "user",
                [
                    Text("Is this the cat of the story?"),
                    Image(data=picture, media_type="image/png"),  # or Image(url="https://…")
                    Document(text="Once upon a time a cat…", name="story.txt"),
                ],
            )
        )
        # endregion parts

        # region json
        body = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Good morning"}]}],
            "tools": [
                {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
            ],
            "response_format": {"type": "json_object"},
        }
        request = dialects.get("openai.chat").decode_request(body)
        print(request.tools[0].name, request.response_format)
        done = await chain.complete(request, temperature=0)  # keywords change fields of it
        # endregion json

        # region embeddings
        found = await chain.embed(["a cat", "a dog"])
        print(len(found.vectors), "vectors of", len(found.vectors[0]), "numbers;", found.usage)
        # endregion embeddings


asyncio.run(main())
