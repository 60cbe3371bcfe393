"""Run by the host's Python: reads an application's file, and says what is wrong with it
that needs no execution. Its own version may be another one than CPython's in components.

usage: first_look.py FILE CALLABLE VERSION [FOLDER]...
The source comes on standard input. The exit code is one of those below; what is said of
the file is on standard output.
"""

import ast
import os
import sys
import traceback

NOTHING, WRONG, PERHAPS_WRONG = 0, 10, 11
# Further modules are not looked at.
MODULES_MAX = 500

# Whoever has one of these in a file can give it any name.
DYNAMIC = {"exec", "eval", "globals", "locals", "vars", "setattr", "__dict__", "modules", "__import__"}


def main():
    path, callable_name, version, *folders = sys.argv[1:]
    is_same_version = "%d.%d" % sys.version_info[:2] == version
    source = sys.stdin.buffer.read()
    wrong = error_of(source, path) or error_of_imports(source, path, folders)
    if wrong:
        print(wrong)
        sys.exit(WRONG if is_same_version else PERHAPS_WRONG)
    missing = without_callable(ast.parse(source), path, callable_name)
    if missing:
        print(missing)
        sys.exit(WRONG)


def error_of(source, path):
    """What CPython says of a file that it cannot compile."""
    try:
        compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return "".join(traceback.format_exception_only(type(error), error)).rstrip()
    except ValueError as error:  # a NUL
        return f"{path}: {error}"


def error_of_imports(source, path, folders):
    """The same for modules that are imported for certain: at the top level, and outside of `if`
    and `try`, by files in the folders."""
    waiting, seen = [(source, "")], set()
    while waiting and len(seen) < MODULES_MAX:
        source, package = waiting.pop()
        for name in imports(ast.parse(source), package):
            parts = name.split(".")
            # Of `a.b.c` first what is imported first.
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                found = name not in seen and find(name, folders)
                seen.add(name)
                if not found:
                    continue
                file, is_package = found
                try:
                    with open(file, "rb") as opened:
                        source = opened.read()
                except OSError:
                    continue
                wrong = error_of(source, file)
                if wrong:
                    return wrong
                waiting.append((source, name if is_package else name.rpartition(".")[0]))


def imports(tree, package):
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            module = statement.module or ""
            if statement.level:
                parts = package.split(".")
                above = parts[: len(parts) - statement.level + 1]
                module = ".".join(above + [module] if module else above)
            if module:
                yield module
                yield from (f"{module}.{alias.name}" for alias in statement.names if alias.name != "*")


def find(name, folders):
    if name.split(".")[0] in getattr(sys, "stdlib_module_names", sys.builtin_module_names):
        return None
    for folder in folders:
        path = os.path.join(folder, *name.split("."))
        package = os.path.join(path, "__init__.py")
        if os.path.isfile(package):
            return package, True
        if os.path.isfile(path + ".py"):
            return path + ".py", False
    return None


def without_callable(tree, path, name):
    """Only if nothing in the file can have the name; with what may be meant instead."""
    words, likely = set(), []
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "asname", "arg", "rest"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                words.update([word, word.split(".")[0]])
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            words.update(node.names)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
    if name in words or "*" in words or words & DYNAMIC:
        return None
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            likely += [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.FunctionDef) and len(statement.args.args) == 2:
            likely.append(statement.name)
        elif isinstance(statement, ast.ImportFrom):
            likely += [alias.asname or alias.name for alias in statement.names]
    likely = [known for known in ("app", "wsgi", "wsgi_app") if known in likely] or likely
    hint = f", such as --callable {likely[0]}" if likely else ""
    return f"{path} has no {name!r}: name the WSGI callable with --callable{hint}"


main()
