"""What files and settings may hold, as types; pydantic checks them, and its errors become one line.

    @checked
    @dataclass(frozen=True)
    class Training:
        batch: Count = 8

    Training(batch=0)                                       batch = 0; allowed: a whole number of 1 or more
    TABLE = table(Training)                                 of a file: every key may be left out
    parse(TABLE, {"bach": 4}, "a.toml")                     a.toml: unknown key 'bach' (did you mean 'batch'?)

What is allowed, in errors and in the documentation, are the words of the JSON schema of the type.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, wraps
from typing import Annotated, Any, TypeAlias, TypeVar, cast, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    ValidationError,
    create_model,
)
from pydantic_core import CoreSchema, core_schema

from gaincell.errors import InputError
from gaincell.quantity import did_you_mean, one_of

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
LARGEST = 3e38
"""About the largest number of float32, in which weights and gradients are."""
Whole: TypeAlias = Annotated[int, Field(ge=0)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Several: TypeAlias = Annotated[int, Field(ge=2)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Factor: TypeAlias = Annotated[float, Field(ge=0, le=LARGEST)]
Rate: TypeAlias = Annotated[float, Field(gt=0, le=LARGEST)]
Name: TypeAlias = Annotated[str, Field(min_length=1)]
Json: TypeAlias = dict[str, Any]
Class = TypeVar("Class", bound=type[Any])


def or_inf(above: float) -> Any:
    """Metadata of a number above another; it may be inf."""
    return Field(gt=above, allow_inf_nan=True, json_schema_extra={"infinite": True})


def called(name: str, example: str | None = None) -> Any:
    """Metadata of an entry of a list or of a table with any keys: what errors call it, and one of a list."""
    return Field(json_schema_extra={"name": name, **({} if example is None else {"example": example})})


class OneOf:
    """Metadata of a `str`: one of some words."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = list(words)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(self.words)


class Instance:
    """Metadata of an object that comes from Python, not from a file: only its class is checked."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(source)

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        return {"const": f"a {schema['cls'].__name__}"}


FORMS: Mapping[type, str] = {str: "<text>", list: "<list>", dict: "<table>"}


def either(*kinds: Any) -> Any:
    """Text, a list or a table, each of its own type: errors are those of the form that was given."""
    tagged: Any = None
    for kind in kinds:
        form = next((name for base, name in FORMS.items() if base in (kind, get_origin(kind))), "<table>")
        one: Any = Annotated[kind, Tag(form)]
        tagged = one if tagged is None else tagged | one
    return Annotated[tagged, Discriminator(lambda given: FORMS.get(type(given), "<other>"))]


def table(
    *owners: type, needed: Collection[str] = (), without: Collection[str] = (), **others: Any
) -> type[BaseModel]:
    """The table of a file whose entries are fields of dataclasses; those that are not given stay away.

    Args:
        *owners: The dataclasses.
        needed: What cannot be left out.
        without: Fields that are not in the file.
        **others: Further entries, or what stands in the file for a field.
    """
    hints = {
        key: hint for owner in owners for key, hint in get_type_hints(owner, include_extras=True).items()
    }
    entries = {key: hint for key, hint in hints.items() if key not in without} | others
    fields: Json = {key: (hint, ... if key in needed else None) for key, hint in entries.items()}
    return create_model(owners[0].__name__ if owners else "Table", __config__=STRICT, **fields)


def parse(kind: type[BaseModel], given: Any, where: str) -> Json:
    """The entries of a table that are given.

    Args:
        kind: What the table may hold.
        given: The table.
        where: Where it stands, for errors.

    Raises:
        InputError: an entry is unknown, missing or not allowed.
    """
    try:
        found: Json = _entries(kind.model_validate(given))
    except ValidationError as error:
        raise InputError(_explain(error, kind.model_json_schema(), given, where)) from None
    return found


def _entries(value: Any) -> Any:
    """Tables as plain ones, of what was given."""
    if isinstance(value, BaseModel):
        given = (key for key in type(value).model_fields if key in value.model_fields_set)
        return {key: _entries(getattr(value, key)) for key in given}
    return [_entries(one) for one in value] if isinstance(value, list) else value


def check_value(value: Any, kind: Any, where: str) -> Any:
    """`value` itself, as its type has it.

    Raises:
        InputError: it is not allowed; `where` says where it stands.
    """
    return parse(_model_of(kind, where), {where: value}, "")[where]


@cache
def _model_of(kind: Any, where: str) -> type[BaseModel]:
    entry: Json = {where: (kind, ...)}
    return create_model("Value", __config__=STRICT, **entry)


def checked(owner: Class) -> Class:
    """A dataclass whose fields are checked when it is made; it raises InputError."""
    plain: Callable[..., None] = owner.__init__
    signature, kind = inspect.signature(plain), cast(Any, owner)

    @wraps(plain)
    def init(self: Any, *args: Any, **given: Any) -> None:
        known = {key: value for key, value in given.items() if key in signature.parameters}
        found = signature.bind_partial(self, *args, **known).arguments | given  # parse refuses unknown keys
        del found["self"]
        plain(self, **parse(_fields_of(kind), found, ""))

    owner.__init__ = init
    return owner


@cache
def _fields_of(owner: Any) -> type[BaseModel]:
    missing = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(owner) if f.default is f.default_factory is missing]
    return table(owner, needed=needed)


def allowed(kind: type[BaseModel]) -> dict[str, str]:
    """What every entry of a table takes, in words."""
    schema = kind.model_json_schema()
    return {key: words(entry, schema) for key, entry in schema["properties"].items()}


# -- a JSON schema in words ---------------------------------------------------------------------------------


def words(schema: Json, root: Json) -> str:
    """What a JSON schema allows: "a whole number of 1 or more".

    Args:
        schema: The schema.
        root: Where its definitions are.
    """
    schema = _resolved(schema, root)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return one_of(dict.fromkeys(words(one, root) for one in options if one.get("type") != "null"))
    if choices := schema.get("enum") or [schema[key] for key in ("const",) if key in schema]:
        return one_of(str(one).lower() if isinstance(one, bool) else str(one) for one in choices)
    kind = schema.get("type", "")
    if items := schema.get("prefixItems"):
        return f"a list of {len(items)} numbers{words(items[0], root).removeprefix('a number')}"
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _bounds(schema)
    if kind == "array":
        entry = _resolved(schema["items"], root)
        of = {"object": " of tables", "string": " of texts"}.get(str(entry.get("type")), "")
        return f"a list{of}" + (f' (["{entry["example"]}"])' if "example" in entry else "")
    names = {"string": "text", "boolean": "true or false", "object": "a table"}
    return names.get(kind, "anything")


def _bounds(schema: Json) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    end = "" if most is below is None else f"{_short(most)}" if below is None else f"below {_short(below)}"
    if above is not None:
        return f" above {_short(above)}" + (f" up to {end}" if end else ", or inf" * ("infinite" in schema))
    if least is None:
        return f" up to {end}" if end else ""
    return f" from {_short(least)} to {end}" if end else f" of {_short(least)} or more"


def _short(number: Any) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _resolved(schema: Json, root: Json) -> Json:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


# -- an error in words -------------------------------------------------------------------------------------

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
JSON_TYPES: Mapping[type, str] = {dict: "object", list: "array", tuple: "array", str: "string"}


def _explain(error: ValidationError, root: Json, given: Any, where: str) -> str:
    """The first error, of unknown keys before others, in one line."""
    found = error.errors(include_url=False, include_context=False)
    first = next((one for one in found if one["type"] in UNKNOWN), found[0])
    schema, value, label, table, key = root, given, where, where, ""
    for part in (part for part in first["loc"] if part not in FORMS.values()):
        schema = _fitting(schema, value, root)
        if "prefixItems" in schema:  # a list of numbers is shown as a whole
            break
        if isinstance(part, int):
            schema = schema["items"]
            entries = "properties" in _resolved(schema, root)
            table = f"{table}, {key} {part + 1}".removeprefix(", ")
            label = table if entries else f"{label}: {schema.get('name', f'entry {part + 1}')}"
        elif known := schema.get("properties"):
            if part not in known:
                begin = f"{table or schema['title']}: unknown key {part!r}{did_you_mean(part, known)}"
                return f"{begin}; allowed: {one_of(known)}"
            schema, key = known[part], part
            if first["type"] == "missing" and part not in value:
                return f"{table or root['title']} lacks {part!r}; allowed: {words(schema, root)}"
            label = f"{table}: {part}".removeprefix(": ")
            if "properties" in _fitting(schema, value[part], root):
                table = f"{table} [{part}]".strip()
        else:
            schema = schema["additionalProperties"]
            label = f"{label}: {schema.get('name', '')} {part}".replace(":  ", ": ")
        value = value[part]
    known_words = map(str, _fitting(schema, value, root).get("enum", ()))
    hint = did_you_mean(value, known_words) if isinstance(value, str) else ""
    return f"{label} = {value!r}; allowed: {words(schema, root)}{hint}"


def _fitting(schema: Json, value: Any, root: Json) -> Json:
    """The branch of a schema that is of the type of a value; the schema itself where it has none."""
    schema = _resolved(schema, root)
    branches = [_resolved(one, root) for one in schema.get("anyOf") or schema.get("oneOf") or ()]
    branches = [one for one in branches if one.get("type") != "null"]
    kind = JSON_TYPES.get(type(value))
    if len(branches) > 1:
        branches = [one for one in branches if one.get("type") == kind]
    return branches[0] if branches else schema
