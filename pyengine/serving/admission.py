"""What a full queue answers: before a request is routed and its body read, since that is most of
what a server under too much load does.
"""

from starlette.datastructures import Headers
from starlette.types import Scope

from ..errors import QueueFullError
from .auth import identified
from .server import Server

#: Paths whose POST makes a job.
MAKE_JOBS = frozenset({
    "/v1/images/generations", "/v1/images/edits", "/v1/images/variations", "/v1/jobs",
    "/sdapi/v1/txt2img", "/sdapi/v1/img2img",
})  # fmt: skip


class Admission:
    """A Gate's `admit`. The surfaces ask too, `admit` in openai/images.py: a queue may have become
    full, and other keys' places in it are not counted here.
    """

    def __init__(self, server: Server):
        self.server = server

    def __call__(self, scope: Scope, headers: Headers) -> None:
        """Raises QueueFullError, or the Refusal of who may not call, where no job can be made."""
        path = scope["path"]
        if scope["method"] != "POST" or path not in MAKE_JOBS or "idempotency-key" in headers:
            return  # the job of a key may be there
        try:
            self.server.engine.check_room()
        except QueueFullError:
            scope.setdefault("state", {})["route"] = path
            identified(scope, headers, self.server.settings)
            raise
