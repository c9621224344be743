"""An OpenAI-compatible endpoint in a thread of this process, with whatever is wrong with it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from experience.protocols import ChatModel

Respond = Callable[[dict[str, Any]], tuple[int, str]]
"""The request's body → HTTP status and body of the response."""


@contextmanager
def endpoint(respond: Respond) -> Iterator[str]:
    """Its base URL, ending in /v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = respond(request)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str, prompt_tokens: int = 7, completion_tokens: int = 3) -> str:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": 10}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


def speaking(model: ChatModel) -> Respond:
    """What `model` replies."""

    def respond(request: dict[str, Any]) -> tuple[int, str]:
        schema = request["response_format"]["json_schema"]["schema"]
        said = asyncio.run(model.complete(request["messages"], schema, request["max_tokens"], request["temperature"]))
        return 200, completion(said.text, said.prompt_tokens, said.completion_tokens)

    return respond


def slow(seconds: float) -> Respond:
    def respond(request: dict[str, Any]) -> tuple[int, str]:
        time.sleep(seconds)
        return 200, completion("{}")

    return respond
