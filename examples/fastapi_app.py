"""Log in, look, log out on FastAPI.  (A real login asks for a password first.)

Set VEDSESS_SECRET_KEY and REDIS_URL, then run

    uvicorn examples.fastapi_app:app
"""

from typing import Any, cast

from fastapi import FastAPI, Request

from vedsess_middleware import Session, Settings
from vedsess_middleware.asgi import SessionMiddleware

app = FastAPI()
app.add_middleware(SessionMiddleware, Settings.from_env())


@app.post("/login")
async def login(request: Request, user: str) -> dict[str, Any]:
    session = cast(Session, request.session)
    session.login(user)
    session["visits"] = {"whoami": 0}
    return {"user": session.user_id, **session}


@app.get("/whoami")
async def whoami(request: Request) -> dict[str, Any]:
    session = cast(Session, request.session)
    if session.user_id:
        session["visits"]["whoami"] += 1  # an edit inside a value is noticed
    return {"user": session.user_id, **session}


@app.post("/logout")
async def logout(request: Request) -> dict[str, Any]:
    cast(Session, request.session).logout()
    return {"user": None}
