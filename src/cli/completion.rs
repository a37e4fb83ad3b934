//! `completion`: scripts by which shells complete command lines, made of the table of commands.

use std::fmt::Write as _;

use futures_util::{FutureExt, future::LocalBoxFuture};

use super::{
    command::{Command, Group},
    exit::Failure,
    flags::{Flag, Kind},
    go::quote,
    invocation::Invocation,
    output,
};

pub(crate) const COMPLETION: Command = Command::new(
    "completion",
    "[bash|zsh|fish|powershell]",
    "Makes a script by which a shell completes command lines",
)
.long(
    "Makes a script by which a shell completes command lines.\n\nWith TOOL for the name of this tool:\n\n  bash:        \
     source <(TOOL completion bash)\n  zsh:         source <(TOOL completion zsh)\n  fish:        TOOL completion fish | \
     source\n  PowerShell:  TOOL completion powershell | Out-String | Invoke-Expression\n\nFor every session, put the script \
     where the shell looks for completions: /etc/bash_completion.d/TOOL, \"${fpath[1]}/_TOOL\", or \
     ~/.config/fish/completions/TOOL.fish.\n",
)
.of(Group::Utility)
.runs(completion);

fn completion<'a>(call: &'a Invocation<'a>) -> LocalBoxFuture<'a, Result<(), Failure>> {
    async move {
        call.expect_args(1)?;
        let (tool, places) = (call.root.name, places(call.root));
        let script = match &*call.args[0] {
            b"bash" => bash(tool, &places),
            b"zsh" => zsh(tool, &places),
            b"fish" => fish(tool, &places),
            b"powershell" => powershell(tool, &places),
            other => {
                let typed = call.found.typed(call.program);
                return Err(call.wrong_usage(format!("invalid argument {} for \"{typed}\"", quote(other))));
            }
        };
        output::write(|out| Ok(out.write_all(script.as_bytes())?))
    }
    .boxed_local()
}

/// A place on a command line: behind certain commands.
struct Place {
    /// The commands, each with a space before it.
    path: String,
    commands: Vec<(&'static str, &'static str)>,
    flags: Vec<&'static Flag>,
}

/// All places, the root first.
fn places(root: &'static Command) -> Vec<Place> {
    let mut places = Vec::new();
    collect(root, String::new(), &[], &mut places);
    places
}

fn collect(command: &'static Command, path: String, above: &[&'static Flag], places: &mut Vec<Place>) {
    let inherited: Vec<&Flag> = above.iter().copied().chain(command.inherited).collect();
    let commands = command.below.iter().map(|below| (below.name, below.short)).collect();
    let flags = command.flags.iter().chain(inherited.iter().copied()).collect();
    places.push(Place { path: path.clone(), commands, flags });
    for below in command.below {
        collect(below, format!("{path} {}", below.name), &inherited, places);
    }
}

/// All flags of all commands that have a list of values, each once for each name.
fn choices(places: &[Place]) -> Vec<(String, &'static [&'static str])> {
    let mut found: Vec<(String, &[&str])> = Vec::new();
    for flag in places.iter().flat_map(|place| &place.flags).filter(|flag| !flag.choices.is_empty()) {
        let names = [Some(format!("--{}", flag.name)), flag.short.map(|short| format!("-{short}"))];
        for name in names.into_iter().flatten() {
            if found.iter().all(|(known, _)| *known != name) {
                found.push((name, flag.choices));
            }
        }
    }
    found
}

fn bash(tool: &str, places: &[Place]) -> String {
    let mut script = "# Completion of TOOL for bash.\n_TOOL() {\n    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n    \
         local path= word offers=\n    COMPREPLY=()\n    for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n        case \"$path $word\" in\n"
        .to_owned();
    push(
        &mut script,
        format_args!("            {}) path=\"$path $word\" ;;\n        esac\n    done\n", paths(places)),
    );
    script += "    case \"$previous\" in\n";
    for (name, choices) in choices(places) {
        push(&mut script, format_args!("        {name}) offers=\"{}\" ;;\n", choices.join(" ")));
    }
    script += "        *) case \"$path\" in\n";
    for place in places {
        let words = place.commands.iter().map(|(name, _)| (*name).to_owned());
        let flags = place.flags.iter().map(|flag| format!("--{}", flag.name));
        let words = words.chain(flags).collect::<Vec<_>>().join(" ");
        push(&mut script, format_args!("            \"{}\") offers=\"{words}\" ;;\n", place.path));
    }
    script += "        esac ;;\n    esac\n    COMPREPLY=($(compgen -W \"$offers\" -- \"$current\"))\n}\ncomplete -o default -F _TOOL TOOL\n";
    script.replace("TOOL", tool)
}

fn zsh(tool: &str, places: &[Place]) -> String {
    let mut script = "#compdef TOOL\n# Completion of TOOL for zsh.\n_TOOL() {\n    local place= word previous=${words[CURRENT-1]}\n    \
         local -a offers\n    for word in ${words[2,CURRENT-1]}; do\n        case \"$place $word\" in\n"
        .to_owned();
    push(
        &mut script,
        format_args!("            ({}) place=\"$place $word\" ;;\n        esac\n    done\n", paths(places)),
    );
    script += "    case \"$previous\" in\n";
    for (name, choices) in choices(places) {
        push(&mut script, format_args!("        ({name}) offers=({}) ;;\n", choices.join(" ")));
    }
    script += "        (*) case \"$place\" in\n";
    for place in places {
        let described =
            |name: &str, about: &str| single_quoted(format!("{name}:{}", about.replace(':', "\\:")));
        let words = place.commands.iter().map(|(name, about)| described(name, about));
        let flags = place.flags.iter().map(|flag| described(&format!("--{}", flag.name), flag.usage));
        let words = words.chain(flags).collect::<Vec<_>>().join(" ");
        push(&mut script, format_args!("            (\"{}\") offers=({words}) ;;\n", place.path));
    }
    script += "        esac ;;\n    esac\n    _describe TOOL offers || _files\n}\n\
         if [ \"$funcstack[1]\" = _TOOL ]; then _TOOL \"$@\"; else compdef _TOOL TOOL; fi\n";
    script.replace("TOOL", tool)
}

fn fish(tool: &str, places: &[Place]) -> String {
    let mut script = "# Completion of TOOL for fish.\nfunction __TOOL_place\n    set -l place ''\n    for word in (commandline -opc)[2..-1]\n        \
         switch \"$place $word\"\n"
        .to_owned();
    let paths: Vec<String> = inner_paths(places).map(single_quoted).collect();
    push(
        &mut script,
        format_args!("            case {}\n                set place \"$place $word\"\n", paths.join(" ")),
    );
    script += "        end\n    end\n    test \"$place\" = \"$argv[1]\"\nend\n";
    for place in places {
        let condition = format!("complete -c TOOL -n '__TOOL_place \"{}\"'", place.path);
        for (name, about) in &place.commands {
            push(&mut script, format_args!("{condition} -f -a {name} -d {}\n", single_quoted(about)));
        }
        for flag in &place.flags {
            let short = flag.short.map_or(String::new(), |short| format!(" -s {short}"));
            let value = match (flag.kind, flag.choices) {
                (Kind::Switch, _) => String::new(),
                (_, []) => " -r".to_owned(),
                (_, choices) => format!(" -x -a {}", single_quoted(choices.join(" "))),
            };
            let about = single_quoted(flag.usage);
            push(&mut script, format_args!("{condition} -l {}{short}{value} -d {about}\n", flag.name));
        }
    }
    script.replace("TOOL", tool)
}

/// The words of the command line are counted from the command on, and the one that is being typed is the last.
fn powershell(tool: &str, places: &[Place]) -> String {
    let mut script = "# Completion of TOOL for PowerShell.\nRegister-ArgumentCompleter -Native -CommandName TOOL -ScriptBlock {\n    \
         param($current, $line, $position)\n    $place = ''; $previous = ''\n    $places = @("
        .to_owned();
    let paths: Vec<String> = inner_paths(places).map(powershell_quoted).collect();
    push(&mut script, format_args!("{})\n", paths.join(", ")));
    script += "    foreach ($element in $line.CommandElements | Select-Object -Skip 1) {\n        if ($element.Extent.EndOffset -ge \
         $position) { break }\n        $word = $element.ToString(); $previous = $word\n        if ($places -ccontains \"$place \
         $word\") { $place = \"$place $word\" }\n    }\n    $offers = switch -CaseSensitive ($previous) {\n";
    for (name, choices) in choices(places) {
        let choices: Vec<String> = choices.iter().map(powershell_quoted).collect();
        push(&mut script, format_args!("        '{name}' {{ {} }}\n", choices.join(", ")));
    }
    script += "        default { switch -CaseSensitive ($place) {\n";
    for place in places {
        let words = place.commands.iter().map(|(name, _)| (*name).to_owned());
        let flags = place.flags.iter().map(|flag| format!("--{}", flag.name));
        let words: Vec<String> = words.chain(flags).map(powershell_quoted).collect();
        push(&mut script, format_args!("            '{}' {{ {} }}\n", place.path, words.join(", ")));
    }
    script += "        } }\n    }\n    $offers | Where-Object { $_ -like \"$current*\" } | ForEach-Object {\n        \
         [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)\n    }\n}\n";
    script.replace("TOOL", tool)
}

fn inner_paths(places: &[Place]) -> impl Iterator<Item = &str> {
    places.iter().map(|place| &*place.path).filter(|path| !path.is_empty())
}

/// As the patterns of a `case`.
fn paths(places: &[Place]) -> String {
    inner_paths(places).map(|path| format!("\"{path}\"")).collect::<Vec<_>>().join("|")
}

fn powershell_quoted(text: impl AsRef<str>) -> String {
    format!("'{}'", text.as_ref().replace('\'', "''"))
}

fn single_quoted(text: impl AsRef<str>) -> String {
    format!("'{}'", text.as_ref().replace('\\', "\\\\").replace('\'', "'\\''"))
}

fn push(script: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = script.write_fmt(more);
}
