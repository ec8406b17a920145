#!/bin/sh
# git: a history of 300 commits imported, checked out, repacked by two threads, cloned, merged and
# searched is strictly sound, and gives the same commits and diffs as without the library.
. "$(dirname "$0")/common.sh"
need git
HOME=$work GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_AUTHOR_DATE='1700000000 +0000'
GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org GIT_COMMITTER_DATE='1700000000 +0000'
export HOME GIT_CONFIG_NOSYSTEM GIT_TERMINAL_PROMPT
export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE
export GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_DATE
git config --global init.defaultBranch main
git config --global pack.threads 2
git config --global index.threads 2
git config --global grep.threads 2

# Each commit rewrites 20 of 2000 files, a few lines of each.
awk 'function text(file, commit,    lines, i) {
    lines = "file " file "\n"
    for (i = 0; i < 60; i++)
        lines = lines "line " i " " (file * 7919 + i * 104729 + (i % 9 ? 0 : commit) * 31) % 999983 "\n"
    return lines
}
BEGIN {
    for (commit = 1; commit <= 300; commit++) {
        printf "commit refs/heads/main\ncommitter a <a@example.org> %d +0000\n", 1700000000 + commit
        message = "commit " commit "\n"
        printf "data %d\n%s", length(message), message
        changed = commit == 1 ? 2000 : 20
        for (i = 0; i < changed; i++) {
            file = (commit * 37 + i * 97) % 2000
            if (commit == 1)
                file = i
            body = text(file, commit)
            printf "M 100644 inline d%d/f%d.txt\ndata %d\n%s\n", file % 40, file, length(body), body
        }
    }
}' >history

# history_of DIRECTORY COMMAND...: COMMAND is put before each git.
history_of()
{
    directory=$1
    shift
    "$@" git init -q "$directory"
    cd "$directory"
    "$@" git fast-import --quiet <../history
    "$@" git checkout -q -f main
    "$@" git checkout -q -b side main~100
    seq 1 20000 >side.txt
    "$@" git add -A
    "$@" git commit -q -m side
    "$@" git merge -q -m merged main
    "$@" git repack -q -adf --window=20
    "$@" git gc -q --prune=now
    "$@" git status --porcelain >../status.txt
    "$@" git log -p --stat -M >../log.txt
    "$@" git grep -c 'line 5.*77' >../grep.txt
    "$@" git blame d3/f3.txt >../blame.txt
    cd ..
    "$@" git clone -q "file://$work/$directory" "$directory.clone"
    git -C "$directory.clone" rev-parse HEAD >head.txt
    digest status.txt log.txt grep.txt blame.txt head.txt
}

bound_to_library git init -q bound
expected=$(history_of plain)
actual=$(history_of tested preloaded)
same "status, log, grep, blame and head" "$expected" "$actual"
[ -s status.txt ] && fail "files differ from what was committed: $(head status.txt)"
same "git fsck" "" "$(preloaded git -C tested fsck --full --strict --no-progress --no-dangling 2>&1)"
same "git fsck of the clone" "" \
    "$(git -C tested.clone fsck --full --strict --no-progress --no-dangling 2>&1)"
echo "git: $(git -C tested rev-list --count HEAD) commits repacked and cloned, strictly sound," \
    "head $(head -c 12 head.txt) as without the library"
