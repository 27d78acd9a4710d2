"""Tokens of the API and sessions of browsers: rows of `api_tokens`, which keep hashes alone."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from exporter.database.engine import database_errors
from exporter.errors import TokenProblem
from exporter.queries.rows import Row, all_rows

#: So that a token that leaks is found by scanners of repositories.
PREFIX = "cbk_"


@dataclass(frozen=True)
class Token:
    """A token or a session that is in force unless it has expired."""

    id: int
    name: str
    role: str
    expires_at: datetime | None
    is_session: bool

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


def token_hash(secret: str) -> bytes:
    """Secrets are long and random: one plain hash cannot be guessed back."""
    return hashlib.sha256(secret.encode()).digest()


def create_token(
    connection: Connection, name: str, *, role: str, by: str, days: float | None
) -> str:
    """The secret of a new token, which is never shown again. Raises TokenProblem."""
    secret = PREFIX + secrets.token_urlsafe(32)
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    try:
        _insert(connection, secret, name=name, role=role, by=by, expires_at=expires_at)
    except IntegrityError:
        raise TokenProblem(
            f"there is a token named {name!r} already\n"
            "hint: revoke it first, or choose another name"
        ) from None
    return secret


def start_session(connection: Connection, token: Token, *, seconds: float) -> str:
    """The secret of a browser's session, which ends with its token at the latest."""
    secret = secrets.token_urlsafe(32)
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    connection.execute(text("DELETE FROM api_tokens WHERE parent_id > 0 AND expires_at < now()"))
    _insert(
        connection,
        secret,
        name=token.name,
        role=token.role,
        by="login",
        expires_at=min(ends, token.expires_at or ends),
        parent_id=token.id,
    )
    return secret


def end_session(connection: Connection, secret: str) -> None:
    connection.execute(
        text("DELETE FROM api_tokens WHERE token_hash = :hash AND parent_id IS NOT NULL"),
        {"hash": token_hash(secret)},
    )


def _insert(connection: Connection, secret: str, **columns: Any) -> None:
    connection.execute(
        text("""
            INSERT INTO api_tokens (name, role, token_hash, parent_id, created_by, expires_at)
            VALUES (:name, :role, :hash, :parent_id, :by, :expires_at)
        """),
        {"parent_id": None, "hash": token_hash(secret), **columns},
    )


def revoke_token(connection: Connection, name: str) -> None:
    """End a token and the sessions that began with it. Raises TokenProblem."""
    revoked = connection.scalars(
        text("""
            UPDATE api_tokens SET revoked_at = now()
            WHERE name = :name AND parent_id IS NULL AND revoked_at IS NULL RETURNING id
        """),
        {"name": name},
    ).all()
    if not revoked:
        raise TokenProblem(f"there is no token named {name!r} in force")
    connection.execute(
        text("DELETE FROM api_tokens WHERE parent_id = ANY(:ids)"), {"ids": list(revoked)}
    )


def list_tokens(connection: Connection) -> list[Row]:
    """Tokens, revoked ones too, without their secrets."""
    return all_rows(
        connection,
        """
            SELECT id, name, role, created_at, created_by, expires_at, revoked_at
            FROM api_tokens WHERE parent_id IS NULL ORDER BY name, id
        """,
    )


def read_tokens(engine: Engine) -> Mapping[bytes, Token]:
    """Tokens and sessions that are not revoked, by their hash."""
    with database_errors(), engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT token_hash, id, name, role, expires_at, parent_id IS NOT NULL
                FROM api_tokens WHERE revoked_at IS NULL
            """)
        ).all()
    return {bytes(row[0]): Token(*row[1:]) for row in rows}


def audit(
    connection: Connection,
    action: str,
    subject: str,
    *,
    actor: str,
    address: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write who did what from where; part of the transaction that does it."""
    connection.execute(
        text("""
            INSERT INTO audit_log (actor, address, action, subject, details)
            VALUES (:actor, :address, :action, :subject, CAST(:details AS jsonb))
        """),
        {
            "actor": actor,
            "address": address,
            "action": action,
            "subject": subject,
            "details": json.dumps(dict(details or {}), default=str),
        },
    )
