#include "transport/sim/node.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "transport/checksum.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::sim {
namespace {

constexpr std::size_t page = 4096, max_pulls = 4096;
constexpr std::chrono::seconds connect_timeout{5};
// How long a forced close takes.
constexpr std::chrono::nanoseconds close_min{20'000}, close_max{1'000'000};
constexpr std::chrono::nanoseconds late_write_max{5'000'000};

}  // namespace

node::node(network& on, incarnation self, event_sink sink)
    : net_(on), self_(self), sink_(std::move(sink)), book_(max_pulls) {
  TROUPE_ASSERT(sink_ != nullptr);
}

result<region> node::allocate(std::size_t bytes) {
  if (bytes == 0) return fail(ec::invalid_argument, "a region of nothing");
  if (net_.random.chance(net_.faults().refuse_memory))
    return fail(ec::out_of_memory, "the simulated machine has no memory left");
  std::size_t rounded = (bytes + page - 1) / page * page;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(page, rounded));
  if (data == nullptr) return fail(ec::out_of_memory, "no memory left");
  std::memset(data, 0xA5, rounded);  // unspecified, but the same in every run
  memory_.emplace_back(data, std::free);
  return register_memory(data, bytes, memory_kind::host);
}

result<region> node::register_memory(void* data, std::size_t bytes, memory_kind kind) {
  if (kind != memory_kind::host) return fail(ec::unsupported, "the simulated fabric has no GPUs");
  if (data == nullptr || bytes == 0) return fail(ec::invalid_argument, "a region of nothing");
  if (!open_) return fail(ec::canceled, "the transport is closed");
  region made{book_.next_region(), static_cast<std::byte*>(data), bytes, kind};
  book_.add_region(made);
  published_region& shown = published_.emplace_back();
  shown.base = raw(made.id);
  shown.bytes = bytes;
  shown.kind = kind;
  shown.key = "sim";
  return made;
}

result<std::string> node::local_address() {
  if (!open_) return fail(ec::canceled, "the transport is closed");
  return encode({self_, {}, "simulated", "simulated", published_});
}

result<void> node::connect(incarnation peer, std::string_view text) {
  TROUPE_TRY(node_address address, decode_address(text));
  if (address.owner != peer)
    return fail(ec::peer_lost, "the address is of another start of that node");
  TROUPE_TRY(bool is_new, book_.connecting(peer, address));
  if (!is_new) return {};
  peers_[peer] = peer_state::connecting;
  auto latency = net_.random.between(net_.faults().latency_min, net_.faults().latency_max);
  net_.after(2 * latency, self_, [this, peer] { answer_connect(peer); });
  net_.after(connect_timeout, self_, [this, peer] { give_up_connect(peer); });
  return {};
}

void node::answer_connect(incarnation peer) {
  auto entry = peers_.find(peer);
  if (entry == peers_.end() || entry->second != peer_state::connecting) return;
  if (net_.random.chance(net_.faults().connect_fail))
    return take_down(peer, {ec::peer_lost, "the connection was refused"}, false);
  auto moves = peer == self_ ? net_.now() : net_.moves_at(self_, peer);
  if (!moves) return;  // silence, until link_restored() or the timeout
  if (*moves > net_.now()) return net_.at(*moves, self_, [this, peer] { answer_connect(peer); });
  entry->second = peer_state::up;
  book_.up(peer, path::sim);
  emit(peer_up{peer, path::sim});
  for (auto& [serial, o] : ops_)
    if (o.request.peer == peer && !o.ending) begin(o);
}

void node::give_up_connect(incarnation peer) {
  auto entry = peers_.find(peer);
  if (entry != peers_.end() && entry->second == peer_state::connecting)
    take_down(peer, {ec::deadline_exceeded, "the peer did not answer in time"}, false);
}

void node::disconnect(incarnation peer) {
  net_.after({}, self_, [this, peer] {
    auto entry = peers_.find(peer);
    if (entry != peers_.end() && entry->second != peer_state::closing)
      take_down(peer, {ec::canceled, "disconnected by this node"}, true);
  });
}

void node::peer_died(incarnation peer) {
  auto entry = peers_.find(peer);
  if (entry != peers_.end() && entry->second != peer_state::closing)
    take_down(peer, {ec::peer_lost, "the peer's process ended"}, false);
}

void node::take_down(incarnation peer, error reason, bool by_us) {
  peers_[peer] = peer_state::closing;
  book_.going_down(peer);
  for (auto& [serial, o] : ops_) {
    if (o.request.peer != peer || o.ending) continue;
    if (!o.failure)
      o.failure = {by_us ? ec::canceled : ec::peer_lost,
                   "the connection was closed: " + reason.detail};
    finish_later(o);
  }
  net_.after(close_max, self_, [=, this] { finish_down(peer, reason, by_us); });
}

// After close_max every pull of the peer has ended, since events keep the order of their times.
void node::finish_down(incarnation peer, const error& reason, bool by_us) {
  peers_.erase(peer);
  book_.down(peer, by_us);
  emit(peer_down{peer, reason});
}

result<void> node::pull(pull_request request) {
  TROUPE_CHECK(book_.admit(request, net_.now()));
  std::uint64_t serial = next_serial_++;
  incarnation peer = request.peer;
  net_.at(request.deadline, self_, [this, serial] { expire(serial); });
  op& o = ops_[serial];
  o.serial = serial;
  o.request = std::move(request);
  o.dropped = net_.random.chance(net_.faults().drop);
  if (peers_.at(peer) == peer_state::up) begin(o);
  return {};
}

void node::cancel(op_id id) {
  for (auto& [serial, o] : ops_) {
    if (o.request.op != id) continue;
    net_.after({}, self_, [this, serial = serial] {
      op* canceled = find(serial);
      if (canceled == nullptr || canceled->ending) return;
      canceled->failure = {ec::canceled, "the pull was canceled"};
      finish_later(*canceled);
    });
  }
}

void node::begin(op& o) {
  if (o.begun) return;
  const sim_faults& faults = net_.faults();
  o.begun = true;
  book_.begin(path::sim, net_.now());
  double bytes = 0;
  for (const piece& p : o.request.pieces) bytes += static_cast<double>(p.bytes);
  double nanoseconds = bytes / faults.gigabytes_per_second;
  if (net_.random.chance(faults.late))
    nanoseconds *= 1 + (faults.late_factor - 1) * net_.random.fraction();
  std::size_t halves = 2 * o.request.pieces.size();
  o.step = std::chrono::nanoseconds(
      static_cast<std::int64_t>(nanoseconds / static_cast<double>(halves)));
  auto latency = net_.random.between(faults.latency_min, faults.latency_max);
  if (!o.dropped) net_.after(latency, self_, [this, serial = o.serial] { step(serial); });
}

void node::step(std::uint64_t serial) {
  op* o = find(serial);
  if (o == nullptr || o->ending) return;
  auto moves = o->request.peer == self_ ? net_.now() : net_.moves_at(self_, o->request.peer);
  if (!moves) {
    o->parked = true;
    return;
  }
  if (*moves > net_.now()) return net_.at(*moves, self_, [this, serial] { step(serial); });
  copy_half(*o, o->next_half++, false);
  if (o->next_half < 2 * o->request.pieces.size())
    return net_.after(o->step, self_, [this, serial] { step(serial); });
  if (net_.random.chance(net_.faults().fail)) o->failure = {ec::io_error, "a simulated fault"};
  finish(serial);
}

void node::copy_half(op& o, std::size_t half, bool is_late) {
  node* owner = net_.find(net_.listening(o.request.peer));
  if (owner == nullptr) return;
  const piece& p = o.request.pieces[half / 2];
  std::uint64_t middle = p.bytes / 2;
  std::uint64_t from = half % 2 == 0 ? 0 : middle,
                bytes = half % 2 == 0 ? middle : p.bytes - middle;
  std::byte* to = book_.find_region(o.request.local)->data + p.local_offset;
  const std::byte* source = owner->region_at(o.request.remote)->data + p.remote_offset;
  bool cut_short = half % 2 == 1 && !is_late && net_.random.chance(net_.faults().truncate);
  if (cut_short) bytes = net_.random.below(bytes);
  std::memmove(to + from, source + from, bytes);
  if (half % 2 == 1 && !is_late && net_.random.chance(net_.faults().corrupt)) {
    std::uint64_t bit = net_.random.below(p.bytes * 8);
    to[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
  }
}

void node::expire(std::uint64_t serial) {
  op* o = find(serial);
  if (o == nullptr || o->ending) return;
  o->failure = {ec::deadline_exceeded, "the pull did not end by its deadline"};
  incarnation peer = o->request.peer;
  if (!o->begun || peers_.at(peer) == peer_state::closing) return finish_later(*o);
  book_.count_forced_close();
  take_down(peer, {ec::deadline_exceeded, "a pull passed its deadline"}, false);
}

void node::finish_later(op& o) {
  o.ending = true;
  auto until_quiescent = net_.random.between(close_min, close_max - std::chrono::nanoseconds(1));
  // What was on the wire may still land until then.
  bool lands = o.begun && !o.dropped && o.next_half < 2 * o.request.pieces.size() &&
               net_.moves_at(self_, o.request.peer) == net_.now() && net_.random.chance(0.5);
  if (lands)
    net_.after(until_quiescent / 2, self_, [this, serial = o.serial] {
      if (op* ending = find(serial)) copy_half(*ending, ending->next_half++, true);
    });
  net_.after(until_quiescent, self_, [this, serial = o.serial] { finish(serial); });
}

void node::finish(std::uint64_t serial) {
  op* o = find(serial);
  if (o == nullptr) return;
  pull_done done;
  done.op = o->request.op;
  done.peer = o->request.peer;
  done.via = o->begun ? path::sim : path::none;
  if (o->failure) {
    done.outcome = tl::unexpected(*o->failure);
  } else {
    for (const piece& p : o->request.pieces) {
      done.bytes += p.bytes;
      const std::byte* data = book_.find_region(o->request.local)->data + p.local_offset;
      if (o->request.checksum) done.checksums.push_back(checksum64({data, p.bytes - fence_bytes}));
    }
  }
  book_.finish(done, o->begun, net_.now());
  if (net_.random.chance(net_.faults().write_after_done)) write_late(*o);
  bool twice = net_.random.chance(net_.faults().duplicate_completion);
  ops_.erase(serial);
  if (twice) net_.after(close_min, self_, [this, done] { emit(done); });
  emit(std::move(done));
}

void node::write_late(const op& o) {
  auto delay = net_.random.between(close_min, late_write_max);
  net_.after(delay, self_, [this, late = o]() mutable {
    for (std::size_t half = 0; half < 2 * late.request.pieces.size(); ++half)
      copy_half(late, half, true);
  });
}

void node::link_restored(incarnation owner) {
  if (auto entry = peers_.find(owner);
      entry != peers_.end() && entry->second == peer_state::connecting)
    net_.after({}, self_, [this, owner] { answer_connect(owner); });
  for (auto& [serial, o] : ops_) {
    if (o.request.peer != owner || !o.parked) continue;
    o.parked = false;
    net_.after(o.step, self_, [this, serial = serial] { step(serial); });
  }
}

std::vector<std::span<const std::byte>> node::targets() const {
  std::vector<std::span<const std::byte>> all;
  for (const auto& [serial, o] : ops_)
    for (const piece& p : o.request.pieces)
      all.emplace_back(book_.find_region(o.request.local)->data + p.local_offset, p.bytes);
  return all;
}

node::op* node::find(std::uint64_t serial) {
  auto entry = ops_.find(serial);
  return entry == ops_.end() ? nullptr : &entry->second;
}

void node::emit(event e) {
  net_.count_delivery();
  sink_(std::move(e));
}

void node::die() {
  open_ = false;
  book_.close();
  ops_.clear();
  peers_.clear();
}

void node::close() {
  if (!open_) return;
  open_ = false;
  book_.close();
  // As the real fabric: what was accepted gets its completion before close() returns.
  for (auto next = ops_.begin(); next != ops_.end(); next = ops_.begin()) {
    next->second.failure = {ec::canceled, "the transport is closing"};
    finish(next->first);
  }
  for (auto next = peers_.begin(); next != peers_.end(); next = peers_.begin()) {
    incarnation peer = next->first;
    book_.going_down(peer);
    finish_down(peer, {ec::canceled, "the transport is closing"}, true);
  }
  net_.kill(self_, close_max);
}

}  // namespace troupe::transport::sim
