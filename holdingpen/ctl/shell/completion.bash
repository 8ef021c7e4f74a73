# Holding Pen: complete the words of gatekeeper, holdingpenctl and holdingpen.
#
#     eval "$(holdingpenctl completion bash)"
#
# After gatekeeper's own options the program's completion takes over; for that the
# package bash-completion is needed, without it commands and files are offered.

# What may follow the words $1, and what the option $2 takes there; in the caller's
# variables options, verbs, others and kind.
_holdingpen_look_up() {
    options='' verbs='' others='' kind=''
    case $1 in
@WORDS@
        *) return 1 ;;
    esac
}

_holdingpen_offer() {
    local kind=$1 current=$2
    case $kind in
        '' | nothing) ;;
        file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        directory) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
        user) mapfile -t COMPREPLY < <(compgen -u -- "$current") ;;
        group) mapfile -t COMPREPLY < <(compgen -g -- "$current") ;;
        signal) mapfile -t COMPREPLY < <(compgen -A signal -- "SIG${current#SIG}") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}

# The words from number $1 on are a command of their own.
_holdingpen_command() {
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif (($1 == COMP_CWORD)); then
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    else
        compopt -o default
    fi
}

_holdingpen() {
    local current=${COMP_WORDS[COMP_CWORD]} path=${COMP_WORDS[0]##*/}
    local options verbs others kind word at
    COMPREPLY=()
    [[ $current == = ]] && current=
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == -- ]]; then
            at=$((at + 1))
            [[ $path == gatekeeper ]] && _holdingpen_command "$at"
            return
        elif [[ $word == -?* ]]; then
            _holdingpen_look_up "$path" "$word"
            # bash splits --option=value in three
            if [[ -n $kind || ${COMP_WORDS[at + 1]} == = ]]; then
                at=$((at + 1))
                [[ ${COMP_WORDS[at]} == = && $at -lt $COMP_CWORD ]] && at=$((at + 1))
                if ((at == COMP_CWORD)); then
                    _holdingpen_offer "$kind" "$current"
                    return
                fi
            fi
        elif [[ $path == gatekeeper ]]; then
            _holdingpen_command "$at"
            return
        else
            _holdingpen_look_up "$path"
            [[ " $verbs " == *" $word "* ]] && path+=" $word"
        fi
    done
    _holdingpen_look_up "$path" || return
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ $path == gatekeeper ]]; then
        _holdingpen_command "$COMP_CWORD"
    elif [[ -n $verbs ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$current")
    else
        _holdingpen_offer "$others" "$current"
    fi
}

complete -F _holdingpen gatekeeper holdingpenctl holdingpen
