# Removes what a lab leaves behind.
#
# Standard input names it, one a line: "netns NAME" or "dir PATH". Work starts when the input ends: the lab holds the
# other end of the pipe, so that is when it is dropped, and also when its process dies in whatever way.
#
# Everything that a lab starts lives in one of its namespaces, so killing who is in there is enough, and exact.

# Ctrl-C reaches the whole terminal; this is what has to survive it.
trap '' HUP INT TERM PIPE

newline='
'
namespaces=
directories=
while read -r kind name; do
    case $kind in
        netns) namespaces="$namespaces$newline$name" ;;
        dir) directories="$directories$newline$name" ;;
    esac
done
IFS=$newline

failed=0
for namespace in $namespaces; do
    [ -e "/run/netns/$namespace" ] || continue
    tries=0
    # A process may fork while it is looked for: look until nobody is left, for at most 2 s.
    while [ $tries -lt 100 ]; do
        pids=$(ip netns pids "$namespace" 2>/dev/null)
        [ -z "$pids" ] && break
        kill -KILL $pids 2>/dev/null
        sleep 0.02
        tries=$((tries + 1))
    done
    # Someone else, cleaning up after the dead, may have been faster.
    ip netns delete "$namespace" || [ ! -e "/run/netns/$namespace" ] || failed=1
done
for directory in $directories; do
    case $directory in
        */ipoplab-*)
            # Whoever was just killed may have been making a file: a second look finds it.
            rm -rf -- "$directory" 2>/dev/null || { sleep 0.1; rm -rf -- "$directory"; } || failed=1
            ;;
    esac
done
exit $failed
