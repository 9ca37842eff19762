//! Faults of transfers: frames that come late, wait behind a cut, or find their connection lost.

use futures_util::{FutureExt, future::BoxFuture};
use rivven_types::NodeId;
use tokio::time::{Instant, sleep};

use super::{FaultLayer, Faulty, RETRY};
use crate::{
    CallError, TransferPipe, TransferSpec,
    stream::{Broken, Frame, FrameReader, FrameWriter},
};

/// What the layer does to the frames of one transfer.
struct Way {
    layer: FaultLayer,
    here: NodeId,
    there: NodeId,
}

impl Way {
    /// Lets a frame of the sender go.
    async fn go(&self) -> Result<(), Broken> {
        let plan = self.layer.plan_frame(self.here, self.there);
        if !plan.wait.is_zero() {
            sleep(plan.wait).await;
        }
        self.behind_cut(self.here, self.there).await;
        self.survives(plan.lose_request)
    }

    /// Lets a frame of the receiver come.
    async fn come(&self) -> Result<(), Broken> {
        self.behind_cut(self.there, self.here).await;
        self.survives(self.layer.plan_frame(self.here, self.there).lose_response)
    }

    /// Waits until the two are not cut from each other in this direction.
    async fn behind_cut(&self, from: NodeId, to: NodeId) {
        let mut first = true;
        while self.layer.is_cut(from, to) {
            self.layer.lock().stats.cut += u64::from(first);
            first = false;
            sleep(RETRY).await;
        }
    }

    fn survives(&self, lost: bool) -> Result<(), Broken> {
        self.layer.lock().stats.broken_transfers += u64::from(lost);
        if lost { Err(connection_lost()) } else { Ok(()) }
    }
}

fn connection_lost() -> Broken {
    Broken("the connection was lost".into())
}

struct Writer {
    /// None once the connection is lost.
    inner: Option<Box<dyn FrameWriter>>,
    way: Way,
}

impl FrameWriter for Writer {
    fn write(&mut self, frame: Frame) -> BoxFuture<'_, Result<(), Broken>> {
        async move {
            if let Err(broken) = self.way.go().await {
                self.inner = None;
                return Err(broken);
            }
            match &mut self.inner {
                Some(inner) => inner.write(frame).await,
                None => Err(connection_lost()),
            }
        }
        .boxed()
    }

    fn finish(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.finish();
        }
    }
}

struct Reader {
    inner: Option<Box<dyn FrameReader>>,
    way: Way,
}

impl FrameReader for Reader {
    fn read(&mut self) -> BoxFuture<'_, Result<Frame, Broken>> {
        async move {
            let frame = match &mut self.inner {
                Some(inner) => inner.read().await?,
                None => return Err(connection_lost()),
            };
            if let Err(broken) = self.way.come().await {
                self.inner = None;
                return Err(broken);
            }
            Ok(frame)
        }
        .boxed()
    }
}

impl Faulty {
    pub(super) async fn open_faulty(
        &self,
        to: NodeId,
        spec: TransferSpec,
        until: Instant,
    ) -> Result<TransferPipe, CallError> {
        let here = self.inner.local().node;
        let TransferPipe {
            writer,
            reader,
            gone,
            moved,
        } = self.inner.open_transfer(to, spec, until).await?;
        let way = || Way {
            layer: self.layer.clone(),
            here,
            there: to,
        };
        Ok(TransferPipe {
            writer: Box::new(Writer {
                inner: Some(writer),
                way: way(),
            }),
            reader: Box::new(Reader {
                inner: Some(reader),
                way: way(),
            }),
            gone,
            moved,
        })
    }
}
