# Holding Pen: a red ! before the prompt while somebody has the whole machine.
#
#     eval "$(holdingpenctl prompt zsh)"         # as the last line of ~/.zshrc
#
# HOLDINGPEN_ALERT says who has it; it is empty while nobody has.  At a prompt this
# starts no process, and never expands what the file says: users choose the words.

_holdingpen_precmd() {
    # With PROMPT_BANG a single ! is the history number.
    local bang='!' file
    [[ -o promptbang ]] && bang='!!'
    builtin emulate -L zsh
    HOLDINGPEN_ALERT=
    # Prompts are made anew, and put into others (venv), so the mark comes and goes.
    # The empty %{%} tells it from anything the user wrote.
    PROMPT=${PROMPT//'%{%}%F{red}'('!'|'!!')'%f '/}
    for file in \
        "${HOLDINGPEN_SOCKET:+${HOLDINGPEN_SOCKET%.socket}.reserved}" \
        /run/holdingpen.reserved \
        "${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/holdingpen.reserved}"
    do
        [[ -f $file ]] || continue
        # It may be gone by now, or be nothing that we may read.
        { IFS= builtin read -r HOLDINGPEN_ALERT <$file } 2>/dev/null
        HOLDINGPEN_ALERT=${${HOLDINGPEN_ALERT[1,200]}//[[:cntrl:]]/?}
        HOLDINGPEN_ALERT=${HOLDINGPEN_ALERT:-somebody has the whole machine}
        PROMPT="%{%}%F{red}$bang%f $PROMPT"
        break
    done
    # zsh itself keeps $? for whoever comes after us
    return 0
}

autoload -Uz add-zsh-hook
add-zsh-hook precmd _holdingpen_precmd
