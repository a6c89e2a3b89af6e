// Pulls whose destination is device memory: straight from memory that the device can read, in batches; or by way of
// pinned slots, into which this thread copies what it gets by the other paths.
#include <algorithm>

#include "transport/ucx/progress.hpp"

namespace troupe::transport::ucx {

void progress::begin_direct() {
  while (!direct_.empty()) {
    pull_op& op = *direct_.front();
    if (!op.failure && !begin_batch(op)) return;
    direct_.pop_front();
    if (!op.failure && !op.all_begun()) direct_.push_back(&op);
  }
}

bool progress::begin_batch(pull_op& op) {
  const std::size_t first = op.next_piece, left = op.request.pieces.size() - first;
  const std::size_t count = std::min({left, options_.device_batch, options_.device->max_copies()});
  const std::byte* remote = op.from->region_at(op.request.remote).opened;
  device_batch batch;
  batch.checksum = op.request.checksum;
  for (const piece& p : std::span(op.request.pieces).subspan(first, count))
    batch.copies.push_back({op.local_data(p), remote + p.remote_offset, p.bytes});
  batch.done = [this, ends = ends_, &op, first](device_done&& done) {
    ends->put([this, &op, first, moved = std::make_shared<device_done>(std::move(done))] {
      batch_ended(op, first, std::move(*moved));
    });
  };
  if (auto begun = options_.device->copy(std::move(batch)); !begun) {
    if (begun.error().code == ec::queue_full) return false;
    op.failure = std::move(begun.error());
    changed_.push_back(raw(op.request.op));
    return true;
  }
  op.next_piece += count;
  ++op.outstanding;
  op.from->hold();
  return true;
}

void progress::batch_ended(pull_op& op, std::size_t first, device_done&& done) {
  --op.outstanding;
  op.from->let_go();
  if (!done.outcome) {
    if (!op.failure) op.failure = std::move(done.outcome.error());
  } else if (op.request.checksum) {
    std::copy(done.checksums.begin(), done.checksums.end(), op.checksums.begin() + first);
    std::copy(done.fences.begin(), done.fences.end(), op.fences.begin() + first);
  }
  if (op.failure ? op.quiescent() : op.complete()) changed_.push_back(raw(op.request.op));
}

std::byte* progress::landing(pull_op& op, ticket& t) {
  const piece& p = op.piece_of(t);
  if (!op.is_staged()) return op.local_data(p);
  auto slot = landing_.take(p.bytes, op.from->slots);
  if (slot) {
    ++op.from->slots;
    return t.slot = *slot;
  }
  if (slot.error().code != ec::queue_full) {
    op.failure = std::move(slot.error());
    changed_.push_back(raw(op.request.op));
  }
  return nullptr;
}

void progress::give_back(ticket& t) {
  landing_.give_back(t.slot);
  --t.op->from->slots;
  t.slot = nullptr;
  copies_.insert(copies_.end(), starved_.begin(), starved_.end());
  starved_.clear();
}

// The sum was taken of the slot's bytes, and no other process reaches them.
void progress::arrived(ticket& t) {
  pull_op& op = *t.op;
  if (op.request.checksum) {
    const piece& p = op.piece_of(t);
    std::copy_n(t.slot + p.bytes - fence_bytes, fence_bytes, op.fences[t.piece].begin());
  }
  arrived_.push_back(&t);
  more_ = true;
}

void progress::begin_landings() {
  while (!arrived_.empty()) {
    ticket& t = *arrived_.front();
    pull_op& op = *t.op;
    if (op.failure) {
      arrived_.pop_front();
      continue;
    }
    const piece& p = op.piece_of(t);
    device_batch batch;
    batch.copies.push_back({op.local_data(p), t.slot, p.bytes});
    batch.done = [this, ends = ends_, &t](device_done&& done) {
      ends->put([this, &t, moved = std::make_shared<device_done>(std::move(done))] {
        landed(t, std::move(*moved));
      });
    };
    auto begun = options_.device->copy(std::move(batch));
    if (!begun && begun.error().code == ec::queue_full) return;
    arrived_.pop_front();
    if (!begun) {
      if (!op.failure) op.failure = std::move(begun.error());
      changed_.push_back(raw(op.request.op));
      continue;
    }
    t.landing = true;
    ++op.outstanding;
    op.from->hold();
  }
}

void progress::landed(ticket& t, device_done&& done) {
  pull_op& op = *t.op;
  t.landing = false;
  give_back(t);
  --op.outstanding;
  op.from->let_go();
  --op.asked;
  if (op.by == mover::messages) --op.from->busy;
  if (!done.outcome && !op.failure) op.failure = std::move(done.outcome.error());
  if (op.failure ? op.quiescent() : op.complete()) changed_.push_back(raw(op.request.op));
}

}  // namespace troupe::transport::ucx
