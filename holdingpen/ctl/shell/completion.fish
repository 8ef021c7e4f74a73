# Holding Pen: complete the words of gatekeeper, holdingpenctl and holdingpen.
#
#     holdingpenctl completion fish | source
#
# After gatekeeper's own options the program's completion takes over.

# The words before the cursor that are no options; with --cmd those from CMD on, as
# they were typed, and status 1 before there is a CMD.
function __holdingpen_words
    set -l words (commandline -opc)
    set -l name (string replace -r '.*/' '' -- $words[1])
    set -e words[1]
    set -l plain $name
    while set -q words[1]
        if test "$words[1]" = --
            set -e words[1]
            test "$argv[1]" = --cmd; and string escape -- $words
            test "$argv[1]" = --cmd; and return 0
        else if contains -- "$words[1]" $__holdingpen_taking
            set -e words[1]
            set -e words[1]
        else if string match -q -- '-?*' "$words[1]"
            set -e words[1]
        else if test "$argv[1]" = --cmd
            string escape -- $words
            return 0
        else
            set -a plain $words[1]
            set -e words[1]
        end
    end
    test "$argv[1]" = --cmd; and return 1
    string join \n -- $plain
end

# Whether the command and the verbs before the cursor are these words.
function __holdingpen_at
    if test "$argv[1]" = gatekeeper
        not __holdingpen_words --cmd >/dev/null
        return
    end
    set -l path
    for word in (__holdingpen_words)
        set -l longer (string join ' ' -- $path $word)
        contains -- "$longer" $__holdingpen_paths; or break
        set path $longer
    end
    test "$path" = "$argv"
end

# CMD and its words, as if gatekeeper were not before them.
function __holdingpen_command
    set -l current (commandline -ct)
    set -l words (__holdingpen_words --cmd)
    # before CMD that is an option of our own
    or not string match -q -- '-*' "$current"; or return
    complete --do-complete=(string join ' ' -- $words "$current")
end

function __holdingpen_signals
    string replace -r '^' SIG -- (string split ' ' -n -- (kill -l))
end

complete -c gatekeeper -f -a '(__holdingpen_command)'
complete -c holdingpenctl -f
complete -c holdingpen -f
@WORDS@
