#compdef gatekeeper holdingpenctl holdingpen
# Holding Pen: complete the words of gatekeeper, holdingpenctl and holdingpen.
#
#     eval "$(holdingpenctl completion zsh)"     # after compinit
#
# After gatekeeper's own options the program's completion takes over.

# What may follow the words $1.
_holdingpen_level() {
    local curcontext=$curcontext context state state_descr line ret=1
    local -a specs verbs
    local -A opt_args
    case $1 in
@WORDS@
        *) return 1 ;;
    esac
    if [[ $1 == gatekeeper ]]; then
        _arguments -S -A '-*' $specs '*::: :_normal'
        return
    fi
    if (( ! $#verbs )); then
        _arguments -S $specs
        return
    fi
    _arguments -C -S $specs '1: :->verb' '*:: :->rest' && ret=0
    case $state in
        verb) _describe -t commands verb verbs && ret=0 ;;
        rest) _holdingpen_level "$1 $words[1]" && ret=0 ;;
    esac
    return ret
}

_holdingpen() {
    _holdingpen_level $service
}

if [[ $funcstack[1] == _holdingpen ]]; then
    _holdingpen "$@"
else
    compdef _holdingpen gatekeeper holdingpenctl holdingpen
fi
