"""The outermost layer around the framework's routes: nothing of the inside is told when a bug escapes."""

import logging

from serving.api.exchange import Asgi, Exchange, Message, Receive, Scope, Send
from serving.api.problems import INTERNAL, new_error_id, problem

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware, inside the framework's own error page and outside everything else."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            error_id = new_error_id()
            log.exception("error %s in %s", error_id, scope["path"])
            if not has_begun:
                detail = f"error {error_id}: the server's log says more"
                exchange = Exchange(scope, receive, send)
                await exchange.refuse(INTERNAL, problem(INTERNAL, detail, error_id=error_id))
