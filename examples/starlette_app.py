"""Log in, look, log out on Starlette.  (A real login asks for a password first.)

Set VEDSESS_SECRET_KEY and REDIS_URL, then run

    uvicorn examples.starlette_app:app
"""

from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from vedsess_middleware import Session, Settings
from vedsess_middleware.asgi import SessionMiddleware


async def login(request: Request) -> JSONResponse:
    session = cast(Session, request.session)
    session.login(request.query_params["user"])
    session["visits"] = {"whoami": 0}
    return JSONResponse({"user": session.user_id, **session})


async def whoami(request: Request) -> JSONResponse:
    session = cast(Session, request.session)
    if session.user_id:
        session["visits"]["whoami"] += 1  # an edit inside a value is noticed
    return JSONResponse({"user": session.user_id, **session})


async def logout(request: Request) -> JSONResponse:
    cast(Session, request.session).logout()
    return JSONResponse({"user": None})


routes = [Route("/login", login, methods=["POST"]), Route("/logout", logout, methods=["POST"])]
app = Starlette(routes=[Route("/whoami", whoami), *routes])
app.add_middleware(SessionMiddleware, Settings.from_env())
