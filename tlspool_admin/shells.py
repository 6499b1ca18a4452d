"""Completion scripts, made from the parsers.  Each is a table of what may follow what, and a few lines that use it.

A kind of argument is ``files``, a list of fixed words behind ``=``, or the name of a list that
``tlspool completion --words`` prints; ``-`` is what nothing is known of, and ``*`` behind it says that it repeats.
"""

from __future__ import annotations

import argparse

from tlspool_admin.tree import Node, tree

# Both bash and zsh read the table; `words` may hold blanks, so kinds are separated by semicolons.
_WALK = r"""        word="${words[i]}"
        if [[ -n $skip ]]; then
            skip=""
        elif [[ $word == -* ]]; then
            [[ ";$values" == *";$word:"* ]] && skip="$word"
        elif [[ -n $subcommands ]]; then
            command="${command:+$command }$word"
            _tlspool_table "$command" || return 1
        else
            place=$((place + 1))
        fi
    done
    if [[ -n $skip ]]; then
        kind=";$values"
        kind="${kind#*";$skip:"}"
        kind="${kind%%;*}"
    elif [[ $cur == -* ]]; then
        kind="=$options"
    elif [[ -n $subcommands ]]; then
        kind="=$subcommands"
    else
"""
"""The middle of both functions: walk over the words before the one to complete, and find its kind."""

_BASH = (
    r"""
_tlspool() {
    local line="${COMP_LINE:0:COMP_POINT}" command="" place=0 skip="" kind="" word i
    local subcommands options values arguments
    local -a words kinds
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local last=$((${#words[@]} - 1))
    local cur="${words[last]}"
    _tlspool_table ""
    for ((i = 1; i < last; i++)); do
"""
    + _WALK
    + r"""        IFS=';' read -ra kinds <<<"$arguments"
        if ((place < ${#kinds[@]})); then
            kind="${kinds[place]}"
        elif ((${#kinds[@]})) && [[ ${kinds[-1]} == *'*' ]]; then
            kind="${kinds[-1]}"
        fi
        kind="${kind%\*}"
    fi
    local found=""
    case "$kind" in
        "" | -) return 0 ;;
        "="*) found="${kind#=}" ;;
        files) compopt -o filenames 2>/dev/null ;;
        *) found="$(tlspool completion bash --words "$kind" 2>/dev/null)" ;;
    esac
    [[ $kind == files || $kind == anchors ]] && mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    local IFS=$' \t\n'
    [[ -n $found ]] && mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$found" -- "$cur")
    # bash breaks words at these, and puts what is found behind the last one.
    local prefix="${cur%"${cur##*[@:=]}"}"
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _tlspool tlspool
"""
)

_ZSH = (
    r"""
_tlspool() {
    local command="" place=0 skip="" kind="" word i found
    local subcommands options values arguments
    local -a kinds
    local cur="${words[CURRENT]}"
    _tlspool_table ""
    for ((i = 2; i < CURRENT; i++)); do
"""
    + _WALK
    + r"""        kinds=("${(@s:;:)arguments}")
        if ((place < ${#kinds})); then
            kind="${kinds[place + 1]}"
        elif [[ ${kinds[-1]} == *'*' ]]; then
            kind="${kinds[-1]}"
        fi
        kind="${kind%\*}"
    fi
    case "$kind" in
        "" | -) return 1 ;;
        "="*) found="${kind#=}" ;;
        files) _files; return ;;
        *) found="$(tlspool completion zsh --words "$kind" 2>/dev/null)" ;;
    esac
    [[ -n $found ]] && compadd -- ${=found}
    [[ $kind == anchors ]] && _files
    return 0
}
"""
)

_FISH = r"""
function __tlspool_at
    # Whether the words so far are these, and no more but options and (with a second argument) arguments.
    set -l wanted (string split -n ' ' -- $argv[1])
    set -l at 1
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip -eq 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- $word $__tlspool_take_value; and set skip 1
        else if test $at -le (count $wanted)
            test $word = $wanted[$at]; or return 1
            set at (math $at + 1)
        else if test (count $argv) -lt 2
            return 1
        end
    end
    test $at -gt (count $wanted)
end
"""


def _head(name: str) -> str:
    return f"# Completion of tlspool for {name}; made by `tlspool completion {name}` from the command itself.\n"


def _kind(kind: str, many: bool = False) -> str:
    return (kind or "-") + ("*" if many else "")


def _table(root: Node) -> str:
    """Return a shell function that sets what may follow a command."""
    lines = ["_tlspool_table() {", "    subcommands= options= values= arguments=", '    case "$1" in']
    for node in root.all():
        subcommands = " ".join(child.words[-1] for child in node.children)
        options = " ".join(name for option in node.options for name in option.names)
        values = "".join(
            f"{name}:{_kind(option.kind)};" for option in node.options if option.metavar for name in option.names
        )
        arguments = ";".join(_kind(one.kind, one.many) for one in node.arguments)
        lines.append(f'        "{" ".join(node.words)}")')
        for name, value in (
            ("subcommands", subcommands), ("options", options), ("values", values), ("arguments", arguments)
        ):  # fmt: skip
            if value:
                lines.append(f"            {name}={_quoted(value)}")
        lines.append("            ;;")
    lines += ["        *) return 1 ;;", "    esac", "}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def bash(parser: argparse.ArgumentParser) -> str:
    """Return the script for bash."""
    return _head("bash") + _table(tree(parser)) + _BASH


def zsh(parser: argparse.ArgumentParser) -> str:
    """Return the script for zsh: the file ``_tlspool`` of a directory in $fpath, or something to be sourced."""
    end = '\nif [[ ${funcstack[1]} == _tlspool ]]; then\n    _tlspool "$@"\nelse\n    compdef _tlspool tlspool\nfi\n'
    return "#compdef tlspool\n" + _head("zsh") + _table(tree(parser)) + _ZSH.rstrip("\n") + end


def fish(parser: argparse.ArgumentParser) -> str:
    """Return the script for fish."""
    root = tree(parser)
    take = sorted({name for node in root.all() for one in node.options if one.metavar for name in one.names})
    lines = [_head("fish") + f"set -g __tlspool_take_value {' '.join(take)}", _FISH.strip("\n")]
    lines.append("complete -c tlspool -f")
    for node in root.all():
        at = f'__tlspool_at "{" ".join(node.words)}"'
        here, anywhere = f"-n {_fish(at)}", f"-n {_fish(at + ' more')}"
        for child in node.children:
            lines.append(f"complete -c tlspool {here} -a {child.words[-1]} -d {_fish(child.help)}")
        for option in node.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            takes = f" -r{_fish_words(option.kind)}" if option.metavar else ""
            lines.append(f"complete -c tlspool {anywhere} {names}{takes} -d {_fish(option.help)}")
        for argument in node.arguments:
            words = _fish_words(argument.kind)
            lines += [f"complete -c tlspool {anywhere}{words}"] if words else []
    return "\n".join(lines) + "\n"


def _fish_words(kind: str) -> str:
    if kind == "files":
        return " -F"
    if kind.startswith("="):
        return f" -a {_fish(kind[1:])}"
    if not kind:
        return ""
    files = " -F" if kind == "anchors" else ""
    return f"{files} -a {_fish(f'(tlspool completion fish --words {kind} 2>/dev/null)')}"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
