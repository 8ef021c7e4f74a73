# Holding Pen: tell who logs in that somebody has the whole machine.
#
#     holdingpenctl prompt login > /etc/profile.d/holdingpen.sh
#
# POSIX sh.  It starts no process, says nothing where nobody looks, and cannot keep
# anybody from logging in.

case $- in *i*)
    if [ -t 1 ]; then
        for _holdingpen_file in \
            "${HOLDINGPEN_SOCKET:+${HOLDINGPEN_SOCKET%.socket}.reserved}" \
            /run/holdingpen.reserved \
            "${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/holdingpen.reserved}"
        do
            [ -f "$_holdingpen_file" ] || continue
            _holdingpen_line=
            # It may be gone by now, or be nothing that we may read.
            { IFS= read -r _holdingpen_line <"$_holdingpen_file" || :; } 2>/dev/null
            # Nothing but a line of text goes to the terminal.
            case $_holdingpen_line in
                '' | *[[:cntrl:]]*) _holdingpen_line='somebody has the whole machine' ;;
            esac
            printf '%s\n' "$_holdingpen_line." "'holdingpenctl confirm' says more." || :
            break
        done
        unset _holdingpen_file _holdingpen_line
    fi
    ;;
esac
