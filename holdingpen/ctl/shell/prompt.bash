# Holding Pen: a red ! before the prompt while somebody has the whole machine.
#
#     eval "$(holdingpenctl prompt bash)"        # as the last line of ~/.bashrc
#
# HOLDINGPEN_ALERT says who has it; it is empty while nobody has.  At a prompt this
# starts no process, and never expands what the file says: users choose the words.

_holdingpen_precmd() {
    # Whoever comes after us in PROMPT_COMMAND wants to see the same $?.
    # \041: a bare ! is the history number in posix mode.
    local was=$? file mark='\[\e[31m\]\041\[\e[0m\] '
    [[ ${TERM-dumb} == dumb ]] && mark='\041 '
    HOLDINGPEN_ALERT=
    # Prompts are made anew, and put into others (venv), so the mark comes and goes.
    [[ -n ${PS1-} ]] && PS1=${PS1//"$mark"/}
    for file in \
        "${HOLDINGPEN_SOCKET:+${HOLDINGPEN_SOCKET%.socket}.reserved}" \
        /run/holdingpen.reserved \
        "${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/holdingpen.reserved}"
    do
        [[ -f $file ]] || continue
        # It may be gone by now, or be nothing that we may read.
        { IFS= builtin read -r -n 200 HOLDINGPEN_ALERT <"$file" || :; } 2>/dev/null
        HOLDINGPEN_ALERT=${HOLDINGPEN_ALERT//[[:cntrl:]]/?}
        HOLDINGPEN_ALERT=${HOLDINGPEN_ALERT:-somebody has the whole machine}
        [[ -n ${PS1-} ]] && PS1=$mark$PS1
        break
    done
    return "$was"
}

# `&& :` keeps a $? other than 0 from ending a shell with `set -e`.
if [[ ${PROMPT_COMMAND[*]-} == *_holdingpen_precmd* ]]; then
    :
elif ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) &&
    [[ -n ${PROMPT_COMMAND+set} && ${PROMPT_COMMAND@a} == *a* ]]
then
    # bash runs all the elements from 5.1 on; before that, the first one
    PROMPT_COMMAND+=('_holdingpen_precmd && :')
else
    # a new line ends whatever is there: a command, a semicolon, a comment
    PROMPT_COMMAND=${PROMPT_COMMAND:+$PROMPT_COMMAND$'\n'}'_holdingpen_precmd && :'
fi
