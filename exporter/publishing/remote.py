"""The remote: pushed to without force, cloned from; its secret is in no argument and no message."""

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from exporter.errors import RepositoryProblem
from exporter.publishing.commands import environment, run_git, shortened
from exporter.settings import GitSettings

_NAME = "configbackup"
_USER, _PASSWORD = "CONFIGBACKUP_GIT_USER", "CONFIGBACKUP_GIT_PASSWORD"
_HELPER = (
    f'!f() {{ test "$1" = get && printf "username=%s\\npassword=%s\\n"'
    f' "${_USER}" "${_PASSWORD}"; }}; f'
)


class Remote:
    """The remote repository of the settings; every method raises RepositoryProblem."""

    def __init__(self, settings: GitSettings) -> None:
        if settings.remote_url is None:
            raise RepositoryProblem("no remote: git.remote_url is not set")
        self._timeout_seconds = settings.remote_timeout_seconds
        self._branch = f"refs/heads/{settings.branch}"
        url, user, password = _without_secrets(settings.remote_url.get_secret_value())
        # A token may stand where others have their name.
        self._secrets = [secret for secret in (password or user,) if secret]
        configuration = {f"remote.{_NAME}.url": url, "protocol.ext.allow": "never"}
        if user or password:
            configuration["credential.helper"] = _HELPER
        self._variables = environment(configuration) | {_USER: user, _PASSWORD: password}

    def push(self, directory: Path, commit_id: str) -> None:
        """Move the remote's branch forward to the commit; never by force."""
        result = run_git(
            directory,
            "push",
            "--porcelain",
            "--no-verify",
            _NAME,
            f"{commit_id}:{self._branch}",
            timeout_seconds=self._timeout_seconds,
            variables=self._variables,
        )
        if result.returncode == 0:
            return
        rejected = [line for line in result.stdout.splitlines() if line.startswith("!")]
        if any("fetch first" in line or "non-fast-forward" in line for line in rejected):
            raise RepositoryProblem(
                "the remote has commits that are not ours: the push was rejected\n"
                "hint: nobody else may write to that branch; move it away on the remote, or set "
                "another git.branch"
            )
        details = " ".join([*rejected, result.stderr]).replace("\t", " ")
        raise RepositoryProblem(f"the push failed: {self._redacted(shortened(details))}")

    def fetch(self, directory: Path) -> None:
        """Fetch the remote's branch into the same branch of a repository that has none."""
        result = run_git(
            directory,
            "fetch",
            "--quiet",
            "--no-tags",
            _NAME,
            f"{self._branch}:{self._branch}",
            timeout_seconds=self._timeout_seconds,
            variables=self._variables,
        )
        if result.returncode != 0:
            details = self._redacted(shortened(result.stderr))
            raise RepositoryProblem(f"the remote could not be cloned: {details}")

    def _redacted(self, message: str) -> str:
        for secret in self._secrets:
            message = message.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return message


def _without_secrets(url: str) -> tuple[str, str, str]:
    """The URL, the user and the password to give over HTTP.

    Git hands the URL to its helper processes as an argument, so no secret may be left in it; the
    user of an SSH URL is none.
    """
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, "", ""
    userinfo, _, host = parts.netloc.rpartition("@")
    if parts.scheme in ("http", "https"):
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return urlunsplit(parts._replace(netloc=host)), user, password
    user = userinfo.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{host}")), "", ""
