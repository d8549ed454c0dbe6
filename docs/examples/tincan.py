#!/usr/bin/env python3
"""TinCan's requests, for ipop-switch: controllers of IPOP and Evio drive the switch beside this program as they drove TinCan.

IPOP's way, version 5, over UDP:

    ipop-switch --tap ipop0 --controller external --listen [::]:5810
    tincan.py --udp 127.0.0.1:5800

Evio's way, version 7: in the place of the program `tincan`, which its controller starts once for each tunnel. The switch's API is at its usual socket,
or at the one that $IPOP_SWITCH_API names.

    tincan.py -s NAME -t TUNNEL -l LOGGING

What controllers carry between the ends of a link unread is ours: a fingerprint (FPR) is a node id, a set of candidates (CAS) a description. So both ends
must be ipop-switch. Where the switch has no counterpart of a request, it is answered by `Success: false` and words.
"""

import argparse
import base64
import json
import os
import signal
import socket
import sys
import threading
import time

from controller import PAUSE_S, Refused, Switch, address

GATHERED_WITHIN_S = 10.0  # Candidates that come later are left out: TinCan's controllers carry one set.
LONGEST = 65507  # Bytes of a message, either way.
LEVELS = {"NONE": "error", "ERROR": "error", "WARNING": "warn", "INFO": "info", "DEBUG": "debug", "VERBOSE": "trace"}
OVER_UDP, OVER_UNIX = 5, 7  # Versions of the protocol.


class Unknown(Exception):
    """The request is none, or is about what is not there."""


class Translator:
    """What TinCan was to its controller. Requests are answered in threads of their own: some wait."""

    def __init__(self, switch, version, send):
        self.switch, self.version, self.send = switch, version, send
        self.tunnels = []  # The ids that name each, its TAP, whether that was made for it, and its links: peers by link id.
        self.envelope = None  # The key that messages are wrapped in: IPOP, EVIO, or none.
        self.controller = None  # Where IPOP's controller wants to hear.
        self.transactions = 0
        self.commands = {
            "Echo": self.echo,
            "ConfigureLogging": self.configure_logging,
            "CreateCtrlRespLink": self.create_control_link,
            "CreateTunnel": self.create_tunnel,
            "CreateOverlay": self.create_tunnel,
            "CreateLink": self.create_link,
            "QueryTunnelInfo": self.query_tunnel,
            "QueryOverlayInfo": self.query_tunnel,
            "QueryCandidateAddressSet": self.query_candidates,
            "QueryLinkStats": self.query_stats,
            "RemoveLink": self.remove_link,
            "RemoveTunnel": self.remove_tunnel,
            "RemoveOverlay": self.remove_tunnel,
            "SendIcc": self.send_icc,
            "SendICC": self.send_icc,
        }

    def answer(self, packet, sender):
        """Answers a message of the controller."""
        try:
            message = json.loads(packet)
            self.envelope = next((key for key in ("IPOP", "EVIO") if key in message), None)
            message = message.get(self.envelope, message)
            request = message["Request"]
            success, text = self.obey(request, sender)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            print(f"what makes no sense: {error!r}: {packet[:200]!r}", file=sys.stderr, flush=True)
            return
        kind = "Response" if self.version == OVER_UNIX else "TincanResponse"
        self.wrap(message.get("TransactionId", 0), kind, {"Request": request, "Response": {"Success": success, "Message": text}})

    def obey(self, request, sender):
        command = request["Command"]
        if command not in self.commands:
            return False, f"ipop-switch has no counterpart of {command}"
        try:
            self.controller = self.controller or sender
            return True, self.commands[command](request)
        except (Refused, Unknown, OSError) as error:
            return False, str(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return False, f"{command}: what makes no sense: {error!r}"

    def wrap(self, transaction, kind, body):
        message = {"ProtocolVersion": self.version, "TransactionId": transaction, "ControlType": kind, **body}
        self.send(json.dumps({self.envelope: message} if self.envelope else message).encode(), self.controller)

    def tell(self, **request):
        """Tells the controller what it did not ask."""
        self.transactions += 1
        kind = "Request" if self.version == OVER_UNIX else "TincanRequest"
        self.wrap(self.transactions, kind, {"Request": request})

    # Requests.

    def echo(self, request):
        return self.switch.call("echo", message=request["Message"])["message"]

    def configure_logging(self, request):
        level = LEVELS.get(str(request.get("Level", "INFO")).upper(), "info")
        self.switch.call("log.set", level=level)
        return f"the level is {level}; the log goes to standard error"

    def create_control_link(self, request):
        self.controller = (request["IP"], request["Port"])
        return "told from now on"

    def create_tunnel(self, request):
        stun, turn = request.get("StunServers") or [], request.get("TurnServers") or []
        if stun or turn:
            turn = [{"server": t["Address"], "username": t["User"], "password": t["Password"]} for t in turn]
            self.switch.call("ice.servers", stun=stun, turn=turn)
        tunnel = {"ids": self.ids(request), "tap": request["TapName"], "made": False, "links": {}}
        if not self.port(tunnel["tap"]):
            try:
                self.switch.call("ports.add", kind="tap", name=tunnel["tap"])
            except Refused as error:
                raise Unknown(f"there is no TAP {tunnel['tap']}, and none is made: {error}") from error
            tunnel["made"] = True
        self.tunnels.append(tunnel)
        return self.described(tunnel)

    def create_link(self, request):
        """The first time without candidates of the far end at one of the two: it answers with its own, and connects when it is called again."""
        if not self.named(request):
            self.create_tunnel(request)
        tunnel, peer = self.tunnel(request), request["PeerInfo"]["FPR"]
        candidates = request["PeerInfo"].get("CAS")
        said = {"description": json.loads(candidates)} if candidates else {}
        if tunnel["links"].get(request["LinkId"]) == peer:
            self.switch.call("links.update", peer=peer, **said)
        else:
            self.switch.call("links.create", peer=peer, **said)
            tunnel["links"][request["LinkId"]] = peer
        return {**self.described(tunnel), "CAS": self.candidates(peer)}

    def query_tunnel(self, request):
        tunnel = self.tunnel(request)
        return {**self.described(tunnel), "LinkIds": list(tunnel["links"])}

    def query_candidates(self, request):
        tunnel, _, peer = self.link(request)
        return {**self.described(tunnel), "CAS": self.candidates(peer)}

    def query_stats(self, request):
        asked = request.get("TunnelIds") or request.get("OverlayIds")
        if asked is None:  # Evio's: one tunnel, one link.
            tunnel, link, peer = self.link(request)
            return {**tunnel["ids"], "LinkId": link, **self.stats(peer)}
        tunnels = {name: tunnel["links"] for name in asked for tunnel in self.tunnels if name in tunnel["ids"].values()}
        return {name: {link: self.stats(peer) for link, peer in links.items()} for name, links in tunnels.items()}

    def remove_link(self, request):
        tunnel, link, peer = self.link(request)
        del tunnel["links"][link]
        self.switch.call("links.remove", peer=peer)
        return "removed"

    def remove_tunnel(self, request):
        tunnel = self.tunnel(request)
        self.tunnels.remove(tunnel)
        for peer in tunnel["links"].values():
            self.switch.call("links.remove", peer=peer)
        if tunnel["made"]:
            self.switch.call("ports.remove", name=tunnel["tap"])
        return "removed"

    def send_icc(self, request):
        _, _, peer = self.link(request)
        data = base64.b64encode(request["Data"].encode()).decode()
        rtt = self.switch.call("messages.send", peer=peer, data=data)["rtt_us"]
        return f"acknowledged after {rtt} µs"

    # What they need.

    @staticmethod
    def ids(request):
        return {key: request[key] for key in ("OverlayId", "TunnelId") if request.get(key)}

    def named(self, request):
        """The tunnel that a request names. Some name the overlay alone, some the tunnel."""
        ids = self.ids(request)
        for tunnel in self.tunnels:
            common = ids.keys() & tunnel["ids"].keys()
            if common and all(ids[key] == tunnel["ids"][key] for key in common):
                return tunnel
        return None

    def tunnel(self, request):
        tunnel = self.named(request)
        if not tunnel:
            raise Unknown(f"there is no tunnel {self.ids(request)}")
        return tunnel

    def link(self, request):
        """The tunnel, the link's id, and the node at its far end. A request may name one of the two."""
        for tunnel in [self.tunnel(request)] if self.ids(request) else self.tunnels:
            for link, peer in tunnel["links"].items():
                if request.get("LinkId") in (None, "", link):
                    return tunnel, link, peer
        raise Unknown(f"there is no link {request.get('LinkId')}")

    def port(self, name):
        return next((port for port in self.switch.call("ports.list")["ports"] if port["name"] == name), None)

    def described(self, tunnel):
        mac = (self.port(tunnel["tap"]) or {"mac": ""})["mac"].replace(":", "")
        return {**tunnel["ids"], "TapName": tunnel["tap"], "MAC": mac, "FPR": self.switch.call("status.get")["node"]}

    def candidates(self, peer):
        """This end's description, when gathering has ended."""
        until = time.monotonic() + GATHERED_WITHIN_S
        while True:
            description = self.switch.call("links.description", peer=peer)["description"]
            if description["gathered"] or time.monotonic() > until:
                return json.dumps(description)
            time.sleep(0.1)

    def stats(self, peer):
        link, known = self.switch.call("links.get", peer=peer), self.switch.call("links.candidates", peer=peer)
        tunnel = self.switch.call("links.stats", peer=peer)["tunnel"] or {"traffic": {}, "rates": {"over_1_s": {}}}
        traffic, rates = tunnel["traffic"], tunnel["rates"]["over_1_s"]
        return {
            "Status": "ONLINE" if link["connected"] else "OFFLINE",
            "IceRole": "controlling" if link["controlling"] else "controlled",
            "Stats": [self.pair(pair, known, traffic, rates) for pair in link["pairs"]],
        }

    @staticmethod
    def pair(pair, known, traffic, rates):
        """A pair of candidates. Traffic is that of the tunnel, and stands at the pair that carries it."""
        is_best = pair["selected"]
        local = next((c for c in known["local"] if c["kind"] == pair["local"]), None)
        remote = next((c for c in known["remote"] if c["address"] == pair["remote_address"]), None)
        return {
            "best_conn": is_best,
            "writable": pair["state"] == "succeeded",
            "receiving": pair["mutual"],
            "timeout": pair["state"] == "failed",
            "new_conn": pair["state"] == "waiting",
            "rtt": (pair["rtt_us"] or 0) // 1000,
            "sent_total_bytes": traffic.get("sent_bytes", 0) if is_best else 0,
            "sent_bytes_second": round(rates.get("sent_bytes_per_s", 0)) if is_best else 0,
            "sent_total_packets": traffic.get("sent_frames", 0) if is_best else 0,
            "recv_total_bytes": traffic.get("received_bytes", 0) if is_best else 0,
            "recv_bytes_second": round(rates.get("received_bytes_per_s", 0)) if is_best else 0,
            "recv_total_packets": traffic.get("received_frames", 0) if is_best else 0,
            "sent_ping_requests_total": pair["checks_sent"],
            "recv_ping_responses": pair["checks_answered"],
            "local_candidate": candidate(local, pair["local"], ""),
            "remote_candidate": candidate(remote, pair["remote"], pair["remote_address"]),
            "state": pair["state"],
        }

    # What the switch tells.

    def follow(self):
        """In a thread of its own: tells the controller what changes."""
        while True:
            try:
                for event in self.switch.events("link,message"):
                    self.pass_on(event)
            except (OSError, ValueError, Refused) as error:
                print(f"lost the switch, trying again: {error}", file=sys.stderr, flush=True)
            time.sleep(PAUSE_S)

    def pass_on(self, event):
        kind = event.get("event")
        if kind not in ("link_tunnel", "message"):
            return
        links = [(tunnel, link) for tunnel in list(self.tunnels) for link, peer in list(tunnel["links"].items()) if peer == event["peer"]]
        for tunnel, link in links:
            if kind == "message":
                data = base64.b64decode(event["data"]).decode(errors="replace")
                self.tell(Command="ICC", **tunnel["ids"], LinkId=link, Data=data)
            elif self.version == OVER_UNIX:
                command = "LinkConnected" if event["connected"] else "LinkDisconnected"
                self.tell(Command=command, **tunnel["ids"], LinkId=link)
            else:
                state = "LINK_STATE_UP" if event["connected"] else "LINK_STATE_DOWN"
                self.tell(Command="LinkStateChange", **tunnel["ids"], LinkId=link, Data=state)


def candidate(known, kind, where):
    """A candidate as libjingle writes it, as far as controllers read it."""
    known = known or {"address": where, "kind": kind, "priority": 0}
    ip, _, port = known["address"].rpartition(":")
    base, _, base_port = known.get("related", known["address"]).rpartition(":")
    return f"Cand[:1:1:udp:{known['priority']}:{ip}:{port}:{known['kind']}:{base}:{base_port}]"


def over_udp(switch, at):
    """IPOP's way. Answers and events go where CreateCtrlRespLink says, or else to whoever asked first."""
    family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.bind(at)
        translator = Translator(switch, OVER_UDP, lambda packet, to: to and udp.sendto(packet, to[:2]))
        threading.Thread(target=translator.follow, daemon=True).start()
        print(f"listening at {at[0]}:{at[1]}", flush=True)
        while True:
            packet, sender = udp.recvfrom(LONGEST)
            threading.Thread(target=translator.answer, args=(packet, sender), daemon=True).start()


def over_unix(switch, name):
    """Evio's way: its controller listens, and each message follows a packet with its length."""
    lock = threading.Lock()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as unix:
        unix.connect("\0" + name)

        def send(packet, _):
            with lock:
                unix.send(len(packet).to_bytes(2, sys.byteorder))
                unix.send(packet)

        translator = Translator(switch, OVER_UNIX, send)
        translator.tell(Command="RegisterDataplane", SessionId=os.getpid())
        threading.Thread(target=translator.follow, daemon=True).start()
        try:
            while len(length := unix.recv(2)) == 2:
                packet = unix.recv(int.from_bytes(length, sys.byteorder))
                threading.Thread(target=translator.answer, args=(packet, None), daemon=True).start()
        finally:
            # With TinCan a tunnel ended with its process.
            for tunnel in list(translator.tunnels):
                translator.obey({"Command": "RemoveTunnel", **tunnel["ids"]}, None)


def main():
    parser = argparse.ArgumentParser(description="Drives ipop-switch by TinCan's requests.")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--udp", type=address, metavar="ADDR:PORT", help="be there for a controller of IPOP")
    way.add_argument("-s", dest="name", metavar="NAME", help="the socket of Evio's controller, in the abstract namespace")
    parser.add_argument("-t", dest="tunnel", metavar="TUNNEL", help="its tunnel; each request names it too")
    parser.add_argument("-l", dest="logging", metavar="LOGGING", help="not used: the switch has a log of its own")
    default = os.environ.get("IPOP_SWITCH_API", "/run/ipop-switch/ipop-switch.sock")
    parser.add_argument("--socket", default=default, help="the switch's API")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        if arguments.udp:
            over_udp(Switch(arguments.socket), arguments.udp)
        else:
            over_unix(Switch(arguments.socket), arguments.name)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
