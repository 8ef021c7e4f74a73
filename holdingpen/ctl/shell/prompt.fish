# Holding Pen: a red ! before the prompt while somebody has the whole machine.
#
#     holdingpenctl prompt fish | source         # at the end of config.fish
#
# HOLDINGPEN_ALERT says who has it; it is empty while nobody has.  At a prompt this
# starts no process, and never expands what the file says: users choose the words.

# fish keeps $status for the prompt whatever a handler does.
function __holdingpen_look --on-event fish_prompt
    set -g HOLDINGPEN_ALERT ''
    set -l files /run/holdingpen.reserved
    if test -n "$HOLDINGPEN_SOCKET"
        set -p files (string replace -r '\.socket$' '' -- $HOLDINGPEN_SOCKET).reserved
    end
    if test -n "$XDG_RUNTIME_DIR"
        set -a files $XDG_RUNTIME_DIR/holdingpen.reserved
    end
    for file in $files
        test -f $file; or continue
        test -r $file; and read -n 200 -g HOLDINGPEN_ALERT <$file
        set -g HOLDINGPEN_ALERT (string replace -ra '[[:cntrl:]]' '?' -- "$HOLDINGPEN_ALERT")
        test -n "$HOLDINGPEN_ALERT"; or set -g HOLDINGPEN_ALERT 'somebody has the whole machine'
        break
    end
end

# Wrap the prompt once.  `functions -q` loads it where it is not loaded yet.
if functions -q fish_prompt; and not functions fish_prompt | string match -q '*__holdingpen_prompt*'
    functions -e __holdingpen_prompt
    functions -c fish_prompt __holdingpen_prompt
    function fish_prompt --description 'The prompt, after a red ! while somebody has the machine'
        # It comes first of all: it must see the $status and $pipestatus of the command.
        set -l prompt (__holdingpen_prompt | string collect --no-trim-newlines)
        if test -n "$HOLDINGPEN_ALERT"
            set_color red
            echo -n '!'
            set_color normal
            echo -n ' '
        end
        printf %s $prompt
    end
end
