"""The one file holds to the rules that keep it readable, and to what is printed from it."""

import ast
import functools
import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import novantra_lite

PATH = Path(novantra_lite.__file__)
ROOT = Path(__file__).parents[1]
SOURCE = PATH.read_text()
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
BANNERS = [
    (SOURCE.count("\n", 0, mark.start()) + 1, mark[1] == "=", mark[2])
    for mark in re.finditer(r"^# ([=-])\1\1 (.+?) \1+$", SOURCE, re.M)
]
SECTIONS = [(line, name) for line, is_part, name in BANNERS if not is_part]


@functools.cache
def tree():
    """The file as Python's syntax; each process collects all tests, and few run these."""
    return ast.parse(SOURCE)


@functools.cache
def definitions():
    """Every function and class of the file, inner ones too."""
    return [node for node in ast.walk(tree()) if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def section_at(line):
    """The section that a line is in, counted from the top; 0 above the first."""
    return sum(start <= line for start, _ in SECTIONS)


def defined_names(tree):
    """Every name of the module, and the line that defines it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        for target in filter(None, targets):
            yield from ((n.id, n.lineno) for n in ast.walk(target) if isinstance(n, ast.Name))


def bound_names(nodes):
    """The names that code binds for itself: arguments, targets, inner definitions, imports."""
    for node in itertools.chain(*map(ast.walk, nodes)):
        match node:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0]
            case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) if name:
                yield name


def read_names(node, own=frozenset()):
    """Every name of the module that code reads when it runs, with its line; annotations do not."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in own:
        yield node.id, node.lineno
    inside = own
    if isinstance(node, FUNCTIONS):
        body = node.body if isinstance(node.body, list) else [node.body]
        inside = own | set(bound_names([node.args, *body]))
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        names = inside if field == "body" else own
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from read_names(child, names)


def annotation_names(tree):
    """Every name that an annotation reads, with its line."""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if annotation := getattr(node, field, None):
                names = (child for child in ast.walk(annotation) if isinstance(child, ast.Name))
                yield from ((name.id, name.lineno) for name in names)


def names_in_tests():
    """Every name that an example or a test imports; in a test an inner name is a debt."""
    folders = ROOT / "tests", ROOT / "examples"
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    imports = re.findall(r"^from novantra_lite import (\([^)]*\)|.*)$", "\n".join(texts), re.M)
    dotted = re.findall(r"novantra_lite[.\", ]+(\w+)", "\n".join(texts))
    return {name for text in [*imports, *dotted] for name in re.findall(r"\w+", text)}


def is_declaration(name):
    """Return whether the kernel reads a definition: models, resources, problems, and what is
    registered by a decorator, such as commands."""
    thing = getattr(novantra_lite, name, None)
    bases = novantra_lite.Model, novantra_lite.Resource, novantra_lite.Problem
    return (inspect.isclass(thing) and issubclass(thing, bases)) or name in registered_names()


@functools.cache
def registered_names():
    """The functions that a decorator registers under a name: commands, and functions in SQL."""
    return {
        node.name
        for node in tree().body
        if isinstance(node, ast.FunctionDef)
        if re.search("command|sql_function", " ".join(map(ast.unparse, node.decorator_list)))
    }


def test_a_section_reads_only_itself_and_what_stands_above():
    defined = dict(defined_names(tree()))

    downward = [
        f"line {line} reads {name}, defined on line {defined[name]}"
        for name, line in read_names(tree())
        if name in defined and section_at(defined[name]) > section_at(line)
    ]

    assert downward == []


def test_what_only_its_own_section_uses_starts_with_an_underscore():
    defined, used = dict(defined_names(tree())), {}
    for name, line in [*read_names(tree()), *annotation_names(tree())]:
        used.setdefault(name, set()).add(section_at(line))
    imported = set(novantra_lite.__all__) | names_in_tests()

    def is_private(name):
        return used.get(name, set()) <= {section_at(defined[name])}

    wrong = {
        name
        for name in defined
        if not name.startswith("__") and section_at(defined[name])
        if is_private(name) is not name.startswith("_")
        if name not in imported and not is_declaration(name)
    }

    assert sorted(wrong) == []


def test_the_contents_name_every_part_and_section_in_order():
    _, contents = novantra_lite.__doc__.split("Contents\n")
    contents, _ = contents.split("\nEvery section reads only")

    listed = []
    for part in re.split(r"^    (?=Part )", contents, flags=re.M)[1:]:
        number, title, sections = re.fullmatch(r"Part (\w+) +(\S.*?) {2,}(.*)", part, re.S).groups()
        listed += [f"Part {number}: {title}", *re.split(r",\s+", " ".join(sections.split()))]

    assert listed == [name for _, _, name in BANNERS]


def test_every_banner_is_80_wide():
    lines = SOURCE.splitlines()

    assert [name for line, _, name in BANNERS if len(lines[line - 1]) != 80] == []


def test_no_two_sections_have_one_name():
    names = [name for _, name in SECTIONS]

    assert sorted(set(names)) == sorted(names)


def test_the_module_introduces_itself_in_50_lines():
    assert len(novantra_lite.__doc__.strip().splitlines()) <= 50


def test_no_section_is_longer_than_320_lines():
    sections = re.split(r"^# (?:=== |--- )(.+?) [=-]+$", SOURCE, flags=re.M)[1:]

    lengths = {
        name: len(text.strip().splitlines())
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }

    assert len(lengths) == len(BANNERS)
    assert {name: length for name, length in lengths.items() if length > 320} == {}


@pytest.mark.parametrize(("type", "most"), [(ast.FunctionDef, 40), (ast.ClassDef, 150)])
def test_a_function_and_a_class_fit_in_view(type, most):
    lengths = {
        f"{node.name}:{node.lineno}": node.end_lineno - node.lineno + 1
        for node in definitions()
        if isinstance(node, type)
    }

    assert {name: length for name, length in lengths.items() if length > most} == {}


def test_no_code_asks_which_surface_it_serves():
    """Asking a surface a question is how it is meant; asking which one it is, is not."""
    tests = [node.test for node in ast.walk(tree()) if isinstance(node, ast.If | ast.IfExp)]
    tests += [test for node in ast.walk(tree()) for test in getattr(node, "ifs", ())]
    tests += [node.subject for node in ast.walk(tree()) if isinstance(node, ast.Match)]

    asking = [
        f"line {test.lineno}: {ast.unparse(test)}"
        for test in tests
        if re.search(r"\b(\w*surface|NOVANTRA|FACTSTORE)\b(?!\.\w)", ast.unparse(test), re.I)
    ]

    assert asking == []


def public_things():
    """Every public class and function of the module, and the methods that a class adds."""
    for name, thing in vars(novantra_lite).items():
        if getattr(thing, "__module__", "") != "novantra_lite" or name.startswith("_"):
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield name, thing
        for inner, method in vars(thing).items() if inspect.isclass(thing) else ():
            if isinstance(method, property | functools.cached_property):
                method = getattr(method, "fget", None) or method.func
            method = getattr(method, "__func__", method)
            inherited = any(inner in vars(base) for base in thing.__mro__[1:])
            if inspect.isfunction(method) and not inner.startswith("_") and not inherited:
                yield f"{name}.{inner}", method


def test_everything_public_has_a_docstring():
    things = dict(public_things())

    assert len(things) > 500
    assert [name for name, thing in things.items() if not thing.__doc__] == []


@pytest.mark.parametrize(
    "operation", novantra_lite.every_operation(), ids=lambda operation: operation.id
)
def test_an_operation_says_in_one_sentence_what_it_does(operation):
    assert re.fullmatch(r"[A-Z][^{}\n]{5,100}\.", operation.summary)


def test_operations_have_names_of_their_own():
    names = [operation.id for operation in novantra_lite.every_operation()]

    assert sorted(set(names)) == sorted(names)


def imported(nodes):
    """The modules that import statements name."""
    for node in nodes:
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module):
                yield module


def test_a_function_imports_nothing_that_the_top_of_the_file_does():
    inner = {
        module
        for function in definitions()
        if isinstance(function, ast.FunctionDef)
        for module in imported(ast.walk(function))
    }

    assert inner & set(imported(tree().body)) == set()


def test_starting_loads_nothing_that_only_some_commands_need():
    script = "import novantra_lite, sys; print(*sys.modules)"

    started = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    loaded = set(started.stdout.decode().split())
    assert loaded & {"argparse", "csv", "waitress", "yaml"} == set()


def test_schema_sql_is_what_the_models_print():
    assert (ROOT / "schema.sql").read_text() == novantra_lite.schema_sql() + "\n"
