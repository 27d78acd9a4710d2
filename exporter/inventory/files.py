"""The YAML files of SimpleInventory, read with every fault in them.

Nornir's own reader stops at the first fault, ignores keys that it does not know, and needs 2.2 s
for 10,000 devices where libyaml needs 0.9 s.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from nornir.core.inventory import (
    ConnectionOptions,
    Defaults,
    Group,
    Groups,
    Host,
    Hosts,
    Inventory,
    ParentGroups,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from exporter.errors import Fault

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Attributes(BaseModel):
    """Only the shape; the values are checked where they take effect, whatever the plugin."""

    model_config = ConfigDict(extra="forbid")

    hostname: Any = None
    port: Any = None
    username: Any = None
    password: Any = None
    platform: Any = None


class _Options(_Attributes):
    extras: dict[str, Any] | None = None


class _Defaults(_Attributes):
    data: dict[str, Any] | None = None
    connection_options: dict[str, _Options] | None = None


class _Element(_Defaults):
    groups: list[str] | None = None


_Model = TypeVar("_Model", bound=BaseModel)


def read_simple_inventory(
    *, host_file: str, group_file: str = "", defaults_file: str = "", encoding: str = "utf-8"
) -> tuple[Inventory, list[Fault]]:
    """Nornir's inventory of these files without what is wrong in it, and what is wrong.

    Groups and defaults may be missing, as in Nornir.
    """
    faults: list[Fault] = []
    optional = {file for file in (group_file, defaults_file) if not Path(file).is_file()}

    def read(file: str, root: str) -> dict[str, Any]:
        return {} if file in optional else _read_mapping(file, root, encoding, faults)

    defaults_model = _checked(
        _Defaults, read(defaults_file, "defaults"), defaults_file, "defaults", faults
    )
    defaults = Defaults(**_arguments(defaults_model or _Defaults()))
    group_models = _elements(read(group_file, "groups"), group_file, "groups", faults)
    host_models = _elements(read(host_file, "hosts"), host_file, "hosts", faults)

    groups = Groups(
        {n: Group(name=n, defaults=defaults, **_arguments(m)) for n, m in group_models.items()}
    )
    for name, model in group_models.items():
        groups[name].groups = _parents(model, groups, group_file, f"groups.{name}", faults)
    hosts = Hosts()
    for name, model in host_models.items():
        parents = _parents(model, groups, host_file, f"hosts.{name}", faults)
        hosts[name] = Host(name=name, groups=parents, defaults=defaults, **_arguments(model))
    return Inventory(hosts=hosts, groups=groups, defaults=defaults), faults


def _read_mapping(file: str, root: str, encoding: str, faults: list[Fault]) -> dict[str, Any]:
    """The content of the file, empty where it cannot be read."""
    try:
        text = Path(file).expanduser().read_text(encoding=encoding)
        content = _parse(text, file, root, faults)
    except (OSError, UnicodeDecodeError, LookupError) as error:
        found = getattr(error, "strerror", None) or str(error)
        faults.append(Fault(file, "(file)", found, f"a readable YAML file in {encoding}"))
        return {}
    except yaml.YAMLError as error:
        faults.append(_syntax_fault(file, error))
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        faults.append(Fault(file, root, describe(content), "a mapping"))
        return {}
    return content


def _parse(text: str, file: str, root: str, faults: list[Fault]) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # Before construction: the merging of `<<` changes the nodes.
        faults.extend(_duplicate_keys(node, file, root))
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _duplicate_keys(root_node: yaml.Node, file: str, root: str) -> list[Fault]:
    """YAML would silently keep the last of two equal keys: a device would be lost."""
    faults, pending, visited = [], [(root_node, root)], set()
    while pending:
        node, path = pending.pop()
        if id(node) in visited or isinstance(node, yaml.ScalarNode):
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += [(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
            continue
        first_lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if (first := first_lines.setdefault(str(key.value), line)) != line:
                found = f"it twice, in lines {first} and {line}"
                faults.append(Fault(file, f"{path}.{key.value}", found, "each name once"))
            pending.append((value, f"{path}.{key.value}"))
    return faults


def _syntax_fault(file: str, error: yaml.YAMLError) -> Fault:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "(file)"
    problem = str(getattr(error, "problem", None) or "a syntax error")
    # A password that begins with `*` or `!` is read as an alias or a tag, and quoted in these.
    if isinstance(error, yaml.composer.ComposerError):
        problem = "an alias (*) without its anchor (&)"
    elif isinstance(error, yaml.constructor.ConstructorError):
        problem = "a tag (!) or key that is not supported"
    return Fault(file, place, problem, "valid YAML; text with special characters in quotes")


def _elements(
    content: Mapping[Any, Any], file: str, root: str, faults: list[Fault]
) -> dict[str, _Element]:
    elements = {}
    for name, value in content.items():
        path = f"{root}.{name}"
        if not isinstance(name, str):
            # 010 would be the device 8, and `no` the device False.
            faults.append(Fault(file, path, describe(name), "a name; in quotes if a number"))
        elif model := _checked(_Element, value, file, path, faults):
            elements[name] = model
    return elements


def _checked(
    model: type[_Model], value: Any, file: str, path: str, faults: list[Fault]
) -> _Model | None:
    try:
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place = ".".join([path, *(str(part) for part in detail["loc"])])
            if detail["type"] == "extra_forbidden":
                found, expected = "an unknown key", f"one of {', '.join(model.model_fields)}"
            else:
                found, expected = describe(detail["input"]), detail["msg"]
            faults.append(Fault(file, place, found, expected))
        return None


def _arguments(model: _Defaults) -> dict[str, Any]:
    arguments = {name: getattr(model, name) for name in _Attributes.model_fields}
    options = {
        name: ConnectionOptions(**{key: getattr(option, key) for key in _Options.model_fields})
        for name, option in (model.connection_options or {}).items()
    }
    return {**arguments, "data": model.data, "connection_options": options}


def _parents(
    model: _Element, groups: Groups, file: str, path: str, faults: list[Fault]
) -> ParentGroups:
    names = model.groups or []
    faults += [
        Fault(file, f"{path}.groups", repr(name), "a group of the inventory")
        for name in names
        if name not in groups
    ]
    return ParentGroups([groups[name] for name in names if name in groups])


def describe(value: object) -> str:
    """The kind of a value, for people: it may be a secret, so never the value itself."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "a mapping", type(None): "nothing"}
    return kinds.get(type(value), f"a {type(value).__name__}")
