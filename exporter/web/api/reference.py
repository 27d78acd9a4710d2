"""/openapi.json is made by APIFlask from the models; here what all operations share, and a page."""

from typing import Any

from flask import render_template

from exporter.web.api.context import Api
from exporter.web.problems import MEDIA_TYPE

_PARTS = (
    "/backups", "/executions", "/devices", "/configurations", "/schedules", "/monitoring",
    "/events", "/session",
)  # fmt: skip
_PROBLEM = {
    "description": "What is wrong (RFC 9457)",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "errors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "field": {"type": "string"},
                                "message": {"type": "string"},
                            },
                        },
                    },
                },
            }
        }
    },
}


def add_reference(api: Api) -> None:
    app = api.app
    app.security_schemes = {"token": {"type": "http", "scheme": "bearer"}}

    @app.spec_processor
    def complete(spec: Any) -> Any:
        spec["paths"] = {
            path: operations
            for path, operations in spec["paths"].items()
            if path.startswith(_PARTS)
        }
        for path, operations in spec["paths"].items():
            for operation in operations.values():
                for status in ("401", "404", "422"):
                    operation["responses"].pop(status, None)
                operation["responses"]["default"] = _PROBLEM
                if "requestBody" in operation:
                    operation["requestBody"]["required"] = True
                if path != "/monitoring/health-check":
                    operation["security"] = [{"token": []}]
        return spec

    @app.get("/docs")
    @app.doc(hide=True)
    def reference() -> str:
        return render_template("reference.html", spec=app.spec)
