"""Answers of the monitoring questions, kept for a while, computed once however many ask."""

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, request
from flask_caching import Cache
from pydantic import BaseModel

from exporter.settings import CacheSettings


@dataclass(frozen=True)
class _Kept:
    body: bytes
    etag: str
    computed_at: datetime


class Answers:
    """Keeps answers, in this process or in Redis."""

    def __init__(self, app: Flask, settings: CacheSettings) -> None:
        self._seconds = settings.seconds
        options: dict[str, Any] = {"CACHE_TYPE": "SimpleCache", "CACHE_THRESHOLD": 1_000}
        if settings.url is not None:
            options = {
                "CACHE_TYPE": "RedisCache",
                "CACHE_REDIS_URL": settings.url.get_secret_value(),
                "CACHE_KEY_PREFIX": "configbackup_",
            }
        self._cache = Cache(app, config={"CACHE_DEFAULT_TIMEOUT": settings.seconds, **options})
        self._lock = threading.Lock()
        self._computing: dict[str, Future[_Kept]] = {}

    def answer(
        self, model: type[BaseModel], key: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> Response:
        """What `compute` returns, as this model with `computed_at`; kept under view and key.

        `refresh` in the key goes round what is kept, and round what others compute already: they
        may have begun before what the caller wants to see.
        """
        is_refresh = key.pop("refresh", False)
        name = f"{request.endpoint} {json.dumps(key, sort_keys=True, default=str)}"
        if is_refresh or not self._seconds:
            kept = self._compute(name, model, compute)
        else:
            kept = self._cache.get(name) or self._compute_once(name, model, compute)
        age = (datetime.now(UTC) - kept.computed_at).total_seconds()
        answer = Response(kept.body, content_type="application/json")
        answer.set_etag(kept.etag)
        answer.cache_control.private = True
        answer.cache_control.max_age = max(0, int(self._seconds - age))
        answer.vary.update(["Authorization", "Cookie"])
        answer.make_conditional(request)
        return answer

    def _compute_once(
        self, name: str, model: type[BaseModel], compute: Callable[[], dict[str, Any]]
    ) -> _Kept:
        with self._lock:
            running = self._computing.get(name)
            if running is None:
                mine: Future[_Kept] = Future()
                self._computing[name] = mine
        if running is not None:
            return running.result()
        try:
            # Between our look and now another may have computed it.
            kept = self._cache.get(name) or self._compute(name, model, compute)
            mine.set_result(kept)
            return kept
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._computing[name]

    def _compute(
        self, name: str, model: type[BaseModel], compute: Callable[[], dict[str, Any]]
    ) -> _Kept:
        computed_at = datetime.now(UTC)
        content = model.model_validate({**compute(), "computed_at": computed_at})
        body = content.model_dump_json().encode()
        kept = _Kept(body, hashlib.sha256(body).hexdigest()[:32], computed_at)
        if self._seconds:
            self._cache.set(name, kept, timeout=self._seconds)
        return kept
