//! Who gets a tunnel: by its key, asked twice, and by its proof. Nothing passes before.

use std::sync::{Arc, Mutex};

use ipop_datapath::{
    Observer, PortId,
    command::{CloseReason, Event, FromConnection, Lane},
    counters::drops::DropReason,
    frame::{FrameBytes, Offload},
    memory::PEER,
    node_id::NodeId,
    policy::admission::{Unproved, Verdict},
    quic::{InitialKey, TlsIdentity},
    tunnel::hello::Hello,
};
use quinn_proto::{ConnectionError, crypto::rustls::QuicClientConfig};
use rustls::{
    DigitallySignedStruct, Error, SignatureAlgorithm, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs::{default_provider, sign::any_supported_type},
    sign::{CertifiedKey, Signer, SigningKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    common::identity,
    scene::{Number, OTHER_PEER, Scene, broadcast, hello},
};

fn say(scene: &mut Scene, stranger: Number, hello: &Hello) {
    let stream = scene.open(stranger).unwrap();
    scene.write(stranger, stream, &hello.encode());
    scene.settle();
}

/// The reason that the node gave in-band when it closed.
fn told(scene: &Scene, stranger: Number) -> Option<CloseReason> {
    match scene.lost(stranger)? {
        ConnectionError::ApplicationClosed(close) => {
            CloseReason::of_code(close.error_code.into_inner())
        }
        _ => None,
    }
}

/// Whether the node ended it in the TLS handshake (RFC 9001 section 4.8).
fn was_refused_by_tls(scene: &Scene, stranger: Number) -> bool {
    match scene.lost(stranger) {
        Some(ConnectionError::ConnectionClosed(close)) => {
            (0x100..0x200).contains(&u64::from(close.error_code))
        }
        _ => false,
    }
}

#[test]
fn who_does_not_know_the_node_id_gets_no_answer() {
    let mut scene = Scene::new();
    scene.knock(&InitialKey::of(NodeId([7; 32])).generate(Lane(0)));
    let known = InitialKey::of(scene.id).generate(Lane(0));
    for version in [0, 2, 0x6b33_43cf, 0x1a2a_3a4a] {
        scene.send_packet(&long_header(0xc0, version, &known));
    }
    for len in 0..=20 {
        scene.send_packet(&long_header(0xc0, 1, &known[..len]));
        scene.send_packet(&long_header(0xe0, 1, &[len as u8; 8]));
    }
    let admitted = scene.node.core.counters().io.strangers.get();
    assert!(admitted >= 1 + 4 + 2 * 20, "{admitted} were dropped unseen");
    // Short headers of connections that never were: an answer would be a stateless reset.
    for id in 0..=255 {
        scene.send_packet(&[&[0x40, 0, id][..], &[id; 1_000]].concat());
    }
    scene.settle();
    assert_eq!(scene.node.core.counters().io.sent_packets.get(), 0);
    assert_eq!(scene.rejections(), [""; 0]);

    scene.knock(&known);
    assert!(scene.node.core.counters().io.sent_packets.get() > 0, "who knows it gets one");
}

fn long_header(first: u8, version: u32, destination: &[u8]) -> Vec<u8> {
    let version = version.to_be_bytes();
    let mut packet = [&[first][..], &version, &[destination.len() as u8], destination].concat();
    packet.resize(1_200, 0);
    packet
}

#[test]
fn who_is_not_on_the_list_gets_no_tls_session() {
    let mut scene = Scene::new();
    scene.gate.refuse();
    let stranger = scene.dial();
    assert!(was_refused_by_tls(&scene, stranger), "{:?}", scene.lost(stranger));
    assert_eq!(scene.rejections(), ["not on the list"]);
    assert_eq!(scene.connected(), 0);
}

#[test]
fn its_right_is_asked_for_again_at_the_hello() {
    let elsewhere = Verdict::Admitted(OTHER_PEER);
    for verdict in [Verdict::Refused("denied meanwhile".into()), elsewhere] {
        let mut scene = Scene::new();
        let stranger = scene.dial();
        scene.gate.set(verdict.clone());
        say(&mut scene, stranger, &hello());
        assert_eq!(told(&scene, stranger), Some(CloseReason::NotAdmitted), "{verdict:?}");
        assert_eq!(scene.connected(), 0, "{verdict:?}");
    }
}

/// Frames of far ends that were not admitted.
#[derive(Clone, Default, Debug)]
struct DroppedOutside(Arc<Mutex<Vec<Vec<u8>>>>);

impl Observer for DroppedOutside {
    fn came_in(&self, _: PortId, _: &FrameBytes<'_>, _: Offload) {}

    fn goes_out(&self, _: PortId, _: &FrameBytes<'_>, _: Offload) {}

    fn dropped(&self, port: Option<PortId>, reason: DropReason, frame: &FrameBytes<'_>) {
        if (port, reason) == (None, DropReason::NotAdmitted) {
            self.0.lock().expect("no panic beside it").push(frame.head().to_vec());
        }
    }
}

#[test]
fn no_frame_passes_before_the_hello() {
    let mut scene = Scene::new();
    let seen = DroppedOutside::default();
    scene.node.core.observe(Some(Box::new(seen.clone())));
    let stranger = scene.dial();
    scene.send_frames(stranger, &[broadcast(), broadcast()]);
    scene.settle();
    assert_eq!(scene.take_frames(), 0);
    assert_eq!(scene.node.core.counters().io.drops.of(DropReason::NotAdmitted), 2);
    assert_eq!(scene.node.core.ledger().difference(), 0);
    assert_eq!(*seen.0.lock().unwrap(), [broadcast(), broadcast()]);
    say(&mut scene, stranger, &hello());
    scene.send_frames(stranger, &[broadcast()]);
    scene.settle();
    assert_eq!((scene.connected(), scene.take_frames()), (1, 1));
}

/// Both come in one round where this end is slow to look.
#[test]
fn the_first_frames_come_with_the_hello() {
    let mut scene = Scene::new();
    let stranger = scene.dial();
    scene.settle();
    let stream = scene.open(stranger).unwrap();
    scene.write(stranger, stream, &hello().encode());
    scene.send_frames(stranger, &[broadcast(), broadcast()]);
    scene.settle();
    assert_eq!((scene.connected(), scene.take_frames()), (1, 2));
    assert_eq!(scene.node.core.counters().io.drops.of(DropReason::NotAdmitted), 0);
}

#[test]
fn no_frame_passes_before_the_secret_is_proved() {
    let mut scene = Scene::new();
    scene.gate.doubt();
    let stranger = scene.dial();
    scene.send_frames(stranger, &[broadcast()]);
    let stream = scene.open(stranger).unwrap();
    scene.write(stranger, stream, &hello().encode());
    scene.send_frames(stranger, &[broadcast()]);
    scene.settle();
    assert_eq!(told(&scene, stranger), Some(CloseReason::NotProved));
    assert_eq!((scene.connected(), scene.take_frames()), (0, 0));
    assert_eq!(scene.port(PEER).received_frames.get(), 0);
    assert_eq!(scene.rejections(), [Unproved::Different.to_string()]);
}

#[test]
fn no_message_passes_before_admission() {
    let signals = |scene: &Scene| {
        scene
            .events
            .iter()
            .filter(|event| matches!(event, Event::Connection(_, FromConnection::Signal { .. })))
            .count()
    };
    for is_believed in [true, false] {
        let mut scene = Scene::new();
        let stranger = scene.dial();
        let [first, second] = [(); 2].map(|()| scene.open(stranger).unwrap());
        let hello = hello().encode();
        let (head, rest) = hello.split_at(30);
        scene.write(stranger, first, head);
        scene.write(stranger, second, &[0, 3, b'o', b'n', b'e']);
        scene.settle();
        assert_eq!(signals(&scene), 0, "its hello is not complete");
        if !is_believed {
            scene.gate.doubt();
        }
        scene.write(stranger, first, rest);
        scene.write(stranger, second, &[0, 3, b't', b'w', b'o']);
        scene.settle();
        assert_eq!(signals(&scene), if is_believed { 2 } else { 0 });
    }
}

#[test]
fn a_lane_of_another_worker_is_refused() {
    let mut scene = Scene::new();
    let stranger = scene.dial();
    say(&mut scene, stranger, &Hello { lane: 1, lanes: 2, ..hello() });
    assert_eq!(told(&scene, stranger), Some(CloseReason::BadHello));
    assert_eq!(scene.connected(), 0);
}

#[test]
fn a_hello_longer_than_any_is_refused_before_all_of_it_has_come() {
    let mut scene = Scene::new();
    let stranger = scene.dial();
    let stream = scene.open(stranger).unwrap();
    scene.write(stranger, stream, b"IPSW\0\x01\x04\x01");
    scene.settle();
    assert_eq!(told(&scene, stranger), Some(CloseReason::BadHello));
}

/// How a hostile program signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pen {
    /// As it should.
    Honest,
    /// With the certificate of another node.
    AnothersCertificate,
    /// It says that the signature is of another kind.
    AnotherScheme,
    /// With a key of another kind.
    EcdsaKey,
}

/// A client that believes every server and signs as it is told.
#[derive(Debug)]
struct Hostile(Arc<CertifiedKey>);

impl Hostile {
    fn dial(pen: Pen, scene: &mut Scene) -> Number {
        let TlsIdentity { mut certificate, mut key, .. } = identity();
        match pen {
            Pen::AnothersCertificate => certificate = identity().certificate,
            Pen::EcdsaKey => {
                let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
                let signed = rcgen::CertificateParams::default().self_signed(&pair).unwrap();
                certificate = signed.der().clone();
                key = pair.serialize_der().try_into().unwrap();
            }
            Pen::Honest | Pen::AnotherScheme => {}
        }
        let key = PenOf(pen, any_supported_type(&key).unwrap());
        let resolver = Self(Arc::new(CertifiedKey::new(vec![certificate], Arc::new(key))));
        let mut config = rustls::ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"ipop-switch/1".to_vec()];
        config.enable_sni = false;
        scene.dial_by(Arc::new(QuicClientConfig::try_from(config).unwrap()))
    }
}

impl ResolvesClientCert for Hostile {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct PenOf(Pen, Arc<dyn SigningKey>);

impl SigningKey for PenOf {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let all = [SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];
        let signer = self.1.choose_scheme(&all)?;
        Some(Box::new(Signing(self.0, signer)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.1.algorithm()
    }
}

#[derive(Debug)]
struct Signing(Pen, Box<dyn Signer>);

impl Signer for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.1.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        match self.0 {
            Pen::AnotherScheme => SignatureScheme::ECDSA_NISTP256_SHA256,
            _ => self.1.scheme(),
        }
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The node admits everybody here, so that nothing but the signature is left to refuse them.
#[test]
fn a_key_is_proved_by_its_own_ed25519_signature_alone() {
    for (pen, why) in [
        (Pen::Honest, None),
        (Pen::AnothersCertificate, Some("BadSignature")),
        (Pen::AnotherScheme, Some("the peer's signature is not Ed25519")),
        (Pen::EcdsaKey, Some("the peer's key is not an Ed25519 key")),
    ] {
        let mut scene = Scene::new();
        let stranger = Hostile::dial(pen, &mut scene);
        let Some(why) = why else {
            say(&mut scene, stranger, &hello());
            assert_eq!(scene.connected(), 1, "{:?}", scene.lost(stranger));
            continue;
        };
        assert!(was_refused_by_tls(&scene, stranger), "{pen:?}: {:?}", scene.lost(stranger));
        let [said] = &scene.rejections()[..] else { panic!("{pen:?}: {:?}", scene.rejections()) };
        assert!(said.contains(why), "{pen:?}: {said}");
    }
}
