#!/usr/bin/env python3
"""A controller for ipop-switch: makes links between the nodes of an overlay, without XMPP and without a room.

On one machine that all others reach:

    controller.py --serve 0.0.0.0:5900

On each host, beside `ipop-switch --tap ipop0 --controller external`:

    controller.py --meet meeting.example:5900 --mesh

Controllers meet at a TCP server that passes the lines of each on to all others. A line is a JSON object: who says it (`from`), for whom (`to`; for
everybody without it), and one of

    here         a node is there; said again and again
    bye          its switch has ended
    description  what the far end of a link must learn of the near one; with `wants` if the near end has learned nothing of the far one yet
    more         candidates besides those of a description

What is said gets lost when the server, a controller or a switch starts again. So nothing here waits for an answer: every few seconds what should be is
compared with what the switch says is, and what is missing is said or made again.

The server hears passwords of ICE, and who talks to it is linked. Put it where only your nodes reach it, name them (`--node`), or give the switches a
network secret, which nodes prove to each other inside their tunnels. A controller may end at any time: tunnels stay.
"""

import argparse
import asyncio
import http.client
import json
import queue
import socket
import sys
import threading
import time

BEAT_S = 2.0  # What should be is compared with what is that often.
PAUSE_S = 1.0  # Before the server or the switch is tried again.
FORGET_S = 60.0  # A node that is not heard of and has no tunnel for so long is gone.
LONGEST_LINE = 1 << 16  # Bytes; a description with 24 candidates takes some 3,000.
MOST_UNREAD = 1 << 20  # Bytes that wait for a node at the server; who does not take them is hung up on.


class Refused(Exception):
    """The switch says no. `code` is one of those in docs/API.md."""

    def __init__(self, problem):
        super().__init__(problem.get("message", problem))
        self.code = problem.get("code")


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Switch:
    """The switch beside this controller, by its API."""

    def __init__(self, path):
        self.path = path

    def call(self, method, **params):
        """Calls a method by JSON-RPC. Raises Refused, or OSError when there is no switch."""
        connection = Unix(self.path, timeout=10)
        try:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            connection.request("POST", "/v1/rpc", json.dumps(body), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        except http.client.HTTPException as error:
            raise OSError(f"the switch hung up: {error!r}") from error
        finally:
            connection.close()
        if "result" not in answer:
            # Whoever may not even ask gets no JSON-RPC.
            raise Refused(answer.get("error", {}).get("data", answer))
        return answer["result"]

    def events(self, kinds="link"):
        """What changes, as it changes; the first is the snapshot. Ends with the switch. Every 15 s there is at least a comment."""
        connection = Unix(self.path, timeout=40)
        try:
            connection.request("GET", f"/v1/events?kind={kinds}")
            for line in connection.getresponse():
                if line.startswith(b"data:"):
                    yield json.loads(line[len(b"data:"):])
        finally:
            connection.close()


class Meeting:
    """The way to the other controllers."""

    def __init__(self, host, port):
        self.address = (host, port)
        self.socket = None

    def say(self, line):
        """Says it to the others, if the server is there: else it is said again later."""
        connection = self.socket
        try:
            if connection:
                connection.sendall(json.dumps(line).encode() + b"\n")
        except OSError:
            pass  # Whoever reads notices too.

    def lines(self):
        """What the others say; the first is None: we are there. Ends with the server."""
        with socket.create_connection(self.address, timeout=10) as connection:
            connection.settimeout(None)
            for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.socket = connection
            try:
                yield None
                with connection.makefile("rb") as reader:
                    while line := reader.readline(LONGEST_LINE):
                        yield line
            finally:
                self.socket = None


class Controller:
    """Decides which links there are. Runs in one thread; others only read and put down what they read."""

    def __init__(self, switch, meeting, arguments):
        self.switch, self.meeting, self.arguments = switch, meeting, arguments
        self.inbox = queue.Queue()
        self.node = None  # Our own id; None while there is no switch.
        self.heard = {}  # Other nodes, and when they were heard of.
        self.taken = {}  # The user fragment of the description that was taken of a node last.
        self.said = set()  # Complaints: each is printed once, until it is over.

    def run(self):
        threading.Thread(target=self.follow, args=("switch", self.switch.events), daemon=True).start()
        threading.Thread(target=self.follow, args=("meeting", self.meeting.lines), daemon=True).start()
        beat = time.monotonic()
        while True:
            try:
                source, what = self.inbox.get(timeout=max(0.0, beat - time.monotonic()))
            except queue.Empty:
                source, what = "clock", None
                beat = time.monotonic() + BEAT_S
            try:
                {"clock": self.beat, "switch": self.changed, "meeting": self.told, "lost": self.lost}[source](what)
            except OSError as error:
                self.complain("switch", f"no switch at {self.switch.path}: {error}")
            except Refused as error:
                self.complain("refused", str(error))
            except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
                self.complain("nonsense", f"{source} says what makes no sense: {error!r}: {what!r:.200}")

    def follow(self, name, read):
        """In a thread of its own: puts down what comes from there, and begins again when it ends."""
        while True:
            try:
                for what in read():
                    self.inbox.put((name, what))
                why = "it ended"
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = str(error)
            self.inbox.put(("lost", (name, why)))
            time.sleep(PAUSE_S)

    def lost(self, whom):
        name, why = whom
        if name == "switch" and self.node:
            self.meeting.say({"from": self.node, "bye": True})
            self.node = None
        self.complain(name, f"lost the {name}, trying again: {why}")

    def changed(self, event):
        """The switch tells something."""
        if "status" in event:  # The snapshot: a switch is there.
            self.node = event["status"]["node"]
            self.taken.clear()
            self.over("switch")
            if self.arguments.stun or self.arguments.turn:
                self.switch.call("ice.servers", stun=self.arguments.stun, turn=self.arguments.turn)
            return self.beat(None)
        match event.get("event"):
            case "link_description" | "link_gathered":
                self.describe(event["peer"])
            case "link_candidates":
                more = {"generation": event["generation"], "candidates": event["candidates"]}
                self.meeting.say({"from": self.node, "to": event["peer"], "more": more})
            case "link_tunnel":
                print(event["text"], flush=True)

    def told(self, line):
        """Another controller says something."""
        if line is None:
            self.over("meeting")
            return self.beat(None)
        line = json.loads(line)
        peer, to = line["from"], line.get("to")
        if not self.node or peer == self.node or to not in (None, self.node) or not self.is_ours(peer):
            return
        if "bye" in line:
            self.heard.pop(peer, None)
            return self.remove(peer, "its node left")
        is_new = peer not in self.heard
        self.heard[peer] = time.monotonic()
        if "description" in line:
            self.learn(peer, line["description"], line.get("wants", False))
        elif "more" in line and peer in self.links():
            self.switch.call("links.update", peer=peer, more=line["more"])
        elif is_new:
            self.meeting.say({"from": self.node, "here": True})
            self.create(peer)

    def learn(self, peer, description, wants):
        """The far end of a link describes itself. If it knows nothing of us although we knew it, it has started anew, and so do we."""
        link = self.links().get(peer)
        is_known = self.taken.get(peer) == description["ufrag"]
        if link is None or wants and link["state"] != "waiting" and not is_known:
            self.create(peer, description=description)
        else:
            self.switch.call("links.update", peer=peer, description=description)
            if wants:
                self.describe(peer)
        self.taken[peer] = description["ufrag"]

    def beat(self, _):
        """Compares what should be with what is."""
        if not self.node:
            return
        self.meeting.say({"from": self.node, "here": True})
        links, now = self.links(), time.monotonic()
        for peer, link in links.items():
            if link["connected"] or peer not in self.heard:
                self.heard[peer] = now
        for peer, heard_at in list(self.heard.items()):
            if now - heard_at > FORGET_S:
                del self.heard[peer]
                self.remove(peer, "its node is gone")
            elif peer not in links:
                self.create(peer)
            elif not links[peer]["connected"]:
                self.describe(peer)

    def links(self):
        """The links that controllers made, by node."""
        return {link["peer"]: link for link in self.switch.call("links.list")["links"] if link["controlled"]}

    def create(self, peer, **description):
        """Makes a link. What the far end must learn comes as an event."""
        try:
            self.switch.call("links.create", peer=peer, **description)
            self.over(peer)
        except Refused as error:
            self.complain(peer, f"no link to {peer}: {error}")

    def describe(self, peer):
        """Says to the far end of a link what it must learn."""
        description = self.switch.call("links.description", peer=peer)["description"]
        wants = self.switch.call("links.get", peer=peer)["state"] == "waiting"
        self.meeting.say({"from": self.node, "to": peer, "description": description, "wants": wants})

    def remove(self, peer, why):
        self.taken.pop(peer, None)
        if peer in self.links():
            self.switch.call("links.remove", peer=peer)
            print(f"the link to {peer} is removed: {why}", flush=True)

    def is_ours(self, peer):
        return not self.arguments.node or peer in self.arguments.node

    def complain(self, about, text):
        if about not in self.said:
            self.said.add(about)
            print(text, file=sys.stderr, flush=True)

    def over(self, about):
        self.said.discard(about)


async def serve(host, port):
    """Passes each line on to everybody else."""
    clients = set()

    async def hear(reader, writer):
        clients.add(writer)
        try:
            while line := await reader.readline():
                for other in clients - {writer}:
                    if other.transport.get_write_buffer_size() > MOST_UNREAD:
                        other.transport.abort()
                    else:
                        other.write(line)
        except (ValueError, ConnectionError):
            pass  # It said too much at once, or broke off.
        finally:
            clients.discard(writer)
            writer.close()

    server = await asyncio.start_server(hear, host, port, limit=LONGEST_LINE)
    print(f"serving at {host}:{port}", flush=True)
    await server.serve_forever()


def address(text):
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def turn_server(text):
    """USER:PASSWORD@HOST[:PORT]"""
    user, separator, server = text.rpartition("@")
    name, colon, password = user.partition(":")
    if not separator or not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not USER:PASSWORD@HOST[:PORT]")
    return {"server": server, "username": name, "password": password}


def main():
    parser = argparse.ArgumentParser(description="Makes links between ipop-switch nodes, without XMPP.")
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--serve", type=address, metavar="ADDR:PORT", help="be the place where controllers meet")
    role.add_argument("--meet", type=address, metavar="HOST:PORT", help="where controllers meet")
    parser.add_argument("--mesh", action="store_true", help="a link to every node that is known; this is the default")
    parser.add_argument("--socket", default="/run/ipop-switch/ipop-switch.sock", help="the switch's API")
    parser.add_argument("--node", action="append", metavar="ID", help="link to this node and to no others but these; repeatable")
    parser.add_argument("--stun", action="append", default=[], metavar="HOST[:PORT]")
    parser.add_argument("--turn", action="append", default=[], type=turn_server, metavar="USER:PASSWORD@HOST[:PORT]")
    arguments = parser.parse_args()
    try:
        if arguments.serve:
            asyncio.run(serve(*arguments.serve))
        else:
            Controller(Switch(arguments.socket), Meeting(*arguments.meet), arguments).run()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
