# shellcheck shell=bash
# What the actions' scripts share: inputs, handed over as variables, become
# arguments. Values go from variable to array; no shell reads them.

arguments=()

# option NAME VALUE: --NAME=VALUE, unless VALUE is empty.
option() {
    if [ -n "$2" ]; then arguments+=("--$1=$2"); fi
}

# each NAME LINES: --NAME=LINE for every line that holds more than blanks.
each() {
    local line
    while IFS= read -r line; do
        line=${line#"${line%%[![:space:]]*}"}
        line=${line%"${line##*[![:space:]]}"}
        option "$1" "$line"
    done <<<"$2"
}

# flag NAME VALUE [INPUT]: --NAME if VALUE is true; anything but true and false ends the step.
flag() {
    case $2 in
        true) arguments+=("--$1") ;;
        false | '') ;;
        *)
            echo "the input ${3:-$1} is neither true nor false" >&2
            exit 2
            ;;
    esac
}

# opposite VALUE: the other of true and false; what is neither stays as it is.
opposite() {
    case $1 in
        true) echo false ;;
        false) echo true ;;
        *) printf '%s\n' "$1" ;;
    esac
}
