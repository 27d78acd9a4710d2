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
        url = settings.remote_url.get_secret_value()
        parts = urlsplit(url)
        self._secret = parts.password or ""
        # Git hands the URL to its helper processes as an argument: the secret must not be in it.
        configuration = {f"remote.{_NAME}.url": url, "protocol.ext.allow": "never"}
        variables = {}
        if self._secret:
            user = f"{quote(unquote(parts.username or ''))}@" if parts.username else ""
            host = parts.netloc.rpartition("@")[2]
            bare = urlunsplit(parts._replace(netloc=user + host))
            configuration |= {f"remote.{_NAME}.url": bare, "credential.helper": _HELPER}
            variables = {
                _USER: unquote(parts.username or ""),
                _PASSWORD: unquote(self._secret),
            }
        self._variables = environment(configuration) | variables

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
        for secret in (self._secret, unquote(self._secret)):
            if secret:
                message = message.replace(secret, "***")
        return message
