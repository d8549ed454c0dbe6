//! Stands between client and server, and cuts or stops what goes through.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What happens to the connections that are open at that time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Pass,
    Cut,
    /// Nothing goes through, nothing is closed.
    Freeze,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    orders: watch::Sender<Order>,
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let (orders, order) = watch::channel(Order::Pass);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let mut order = order.clone();
                order.mark_unchanged();
                tokio::spawn(pass(client, server_port, order));
            }
        });
        Self { port, orders, accepted }
    }

    /// Closes what is open.
    pub(crate) fn cut(&self) {
        self.orders.send_replace(Order::Cut);
    }

    /// What is open stays open but carries nothing any more.
    pub(crate) fn freeze(&self) {
        self.orders.send_replace(Order::Freeze);
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn pass(client: TcpStream, server_port: u16, mut order: watch::Receiver<Order>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut upwards, mut downwards) = ([0; 4096], [0; 4096]);
    loop {
        tokio::select! {
            changed = order.changed() => {
                let order_now = *order.borrow_and_update();
                match (changed, order_now) {
                    (Ok(()), Order::Pass) => {}
                    (Ok(()), Order::Freeze) => {
                        let _ = order.changed().await;
                        return;
                    }
                    _ => return,
                }
            }
            read = from_client.read(&mut upwards) => match read {
                Ok(count) if count > 0 && to_server.write_all(&upwards[..count]).await.is_ok() => {}
                _ => return,
            },
            read = from_server.read(&mut downwards) => match read {
                Ok(count) if count > 0 && to_client.write_all(&downwards[..count]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}
