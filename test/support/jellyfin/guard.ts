/**
 * Makes sure that processes a test started do not outlive it. A small shell waits at the end of a pipe; when the test
 * process is gone, however it went, the shell reads the end of the pipe and kills the process groups it was told of.
 * Frozen processes go too, which a watcher inside them could not promise.
 */
import { type ChildProcess, spawn } from "node:child_process";

const SCRIPT = [
  'groups=" "',
  "while read -r sign group; do",
  '  case "$sign" in',
  '    +) groups="$groups$group " ;;',
  // biome-ignore lint/suspicious/noTemplateCurlyInString: these are the shell's own expansions.
  '    -) case "$groups" in *" $group "*) groups="${groups%% $group *} ${groups#* $group }" ;; esac ;;',
  "  esac",
  "done",
  'for group in $groups; do kill -9 -"$group" 2>/dev/null; done',
].join("\n");

let shell: ChildProcess | undefined;

function tell(line: string): void {
  if (shell === undefined) {
    // In a group of its own, so that the signal which ends the tests does not end their guard first.
    shell = spawn("sh", ["-c", SCRIPT], { stdio: ["pipe", "ignore", "ignore"], detached: true });
    shell.unref();
    const pipe = shell.stdin as unknown as { unref?: () => void } | null;
    pipe?.unref?.();
  }
  shell.stdin?.write(`${line}\n`);
}

/** Puts a process group (the pid of a process started `detached`) under the guard. */
export function guardGroup(pid: number): void {
  tell(`+ ${pid}`);
}

/** Takes a group out, once it has ended; a guard must never hit a process that got its number later. */
export function releaseGroup(pid: number): void {
  tell(`- ${pid}`);
}
