#include "transport/ucx/progress.hpp"

#include <algorithm>
#include <cstring>

#include "transport/fence.hpp"

namespace troupe::transport::ucx {
namespace {

// Network rounds between two slices of copying: enough to serve a peer's burst, short enough to
// keep deadlines.
constexpr int network_rounds = 32;
// While an endpoint closes, look at it at least this often; UCX's event fd usually tells at once.
constexpr std::chrono::milliseconds closing_tick{10};

}  // namespace

void progress::connect(node_address address, time_point now) {
  incarnation id = address.owner;
  bool is_self = id == options_.self && !options_.force_path;
  bool may_map = options_.force_path.value_or(path::shm) == path::shm &&
                 (address.host == host_identity() || options_.force_path);
  bool may_get = options_.force_path != path::shm;
  auto made = std::make_unique<peer>(
      worker_, std::move(address), now + options_.connect_timeout,
      [this](get_ticket& ticket, ucs_status_t status) { on_get_ended(ticket, status); });
  peer& p = *made;
  peers_[id] = std::move(made);
  if (is_self) {
    std::vector<remote_region> own;
    for (region_id i{0}; auto r = book_.find_region(i); i = region_id{raw(i) + 1})
      own.push_back(
          {reinterpret_cast<std::uint64_t>(r->data), r->bytes, r->kind, nullptr, r->data});
    p.open_local(std::move(own));
  } else if (auto opened = p.open(may_map, may_get); !opened) {
    take_down(p, std::move(opened.error()), false);
  }
}

void progress::disconnect(incarnation id, time_point) {
  auto entry = peers_.find(id);
  if (entry == peers_.end() || entry->second->now() == peer::state::closing) return;
  take_down(*entry->second, {ec::canceled, "disconnected by this node"}, true);
}

void progress::start(pull_request request, time_point now) {
  auto id = raw(request.op);
  auto made = std::make_unique<pull_op>();
  pull_op& op = *made;
  op.request = std::move(request);
  op.local = *book_.find_region(op.request.local);
  pulls_[id] = std::move(made);
  deadlines_.emplace(op.request.deadline, id);
  auto entry = peers_.find(op.request.peer);
  if (entry == peers_.end() || entry->second->now() == peer::state::closing) {
    op.failure = {ec::peer_lost, "the peer went down before the pull began"};
    settle(op, now);
    return;
  }
  op.from = entry->second.get();
  if (op.from->now() == peer::state::up) place(op);
}

void progress::cancel(op_id id, time_point now) {
  auto entry = pulls_.find(raw(id));
  if (entry == pulls_.end()) return;
  if (!entry->second->failure) entry->second->failure = {ec::canceled, "the pull was canceled"};
  settle(*entry->second, now);
}

bool progress::round(time_point now) {
  more_ = copy_slice(now);
  more_ |= worker_.progress(network_rounds);
  sum_landed();
  for (auto& [id, p] : peers_) begin_gets(*p, now);
  expire(now);
  watch_peers(now);
  settle_all(now);
  return more_ || !changed_.empty();
}

std::optional<time_point> progress::next_deadline() const {
  std::optional<time_point> next;
  auto consider = [&](time_point t) { next = next ? std::min(*next, t) : t; };
  if (!deadlines_.empty()) consider(deadlines_.begin()->first);
  for (const auto& [id, p] : peers_) {
    if (p->now() == peer::state::connecting) consider(p->give_up_at());
    if (p->now() == peer::state::closing) consider(clock::now() + closing_tick);
  }
  return next;
}

void progress::close_all(time_point) {
  for (auto& [id, p] : peers_)
    if (p->now() != peer::state::closing)
      take_down(*p, {ec::canceled, "the transport is closing"}, true);
}

void progress::bring_up(peer& p) {
  auto via = p.greet();
  if (!via) return take_down(p, std::move(via.error()), false);
  book_.up(p.id(), *via);
  sink_(peer_up{p.id(), *via});
  for (auto& [id, op] : pulls_)
    if (op->from == &p && !op->failure) place(*op);
  more_ = true;
}

void progress::take_down(peer& p, error reason, bool by_us) {
  book_.going_down(p.id());
  if (by_us) closed_by_us_.insert(p.id());
  ec code = by_us ? ec::canceled : ec::peer_lost;
  for (auto& [id, op] : pulls_) {
    if (op->from != &p) continue;
    if (!op->failure) op->failure = {code, "the connection was closed: " + reason.detail};
    changed_.push_back(id);
  }
  p.ready.clear();
  p.close(std::move(reason));
  more_ = true;
}

void progress::watch_peers(time_point now) {
  for (auto next = peers_.begin(); next != peers_.end();) {
    auto entry = next++;
    peer& p = *entry->second;
    if (p.now() == peer::state::connecting && p.hello_arrived()) bring_up(p);
    if (p.now() != peer::state::closing && p.failure() != UCS_OK) {
      error reason = to_error(p.failure(), "connected to the peer");
      reason.code = ec::peer_lost;
      take_down(p, std::move(reason), false);
    } else if (p.now() == peer::state::connecting && now >= p.give_up_at()) {
      take_down(p, {ec::deadline_exceeded, "the peer did not answer in time"}, false);
    }
    if (p.now() != peer::state::closing || !p.gone()) continue;
    settle_all(now);
    peer_down gone{p.id(), p.reason()};
    book_.down(p.id(), closed_by_us_.erase(p.id()) != 0);
    peers_.erase(entry);
    sink_(std::move(gone));
  }
}

void progress::place(pull_op& op) {
  const remote_region& from = op.from->region_at(op.request.remote);
  bool copies = from.mapped != nullptr && op.local.kind == memory_kind::host;
  op.via = copies ? path::shm : op.from->get_path(from.kind);
  if (copies && op.from->get_path(from.kind) == path::local) op.via = path::local;
  book_.begin(op.via, clock::now());
  if (op.request.checksum) op.checksums.resize(op.request.pieces.size());
  if (copies) {
    copies_.push_back(&op);
    return;
  }
  op.tickets.resize(op.request.pieces.size());
  op.from->ready.push_back(&op);
}

void progress::begin_gets(peer& p, time_point) {
  while (!p.ready.empty() && p.outstanding() < options_.max_gets) {
    pull_op& op = *p.ready.front();
    p.ready.pop_front();
    if (op.failure) continue;
    auto piece = static_cast<std::uint32_t>(op.next_piece++);
    op.tickets[piece] = {&op, piece};
    if (!op.all_begun()) p.ready.push_back(&op);
    p.get(op.tickets[piece]);
    more_ = true;
  }
}

void progress::on_get_ended(get_ticket& ticket, ucs_status_t status) {
  pull_op& op = *ticket.op;
  if (status != UCS_OK && !op.failure) {
    op.failure = to_error(status, "pulling");
    if (status == UCS_ERR_CANCELED) op.failure->code = ec::peer_lost;
  }
  if (!op.failure && op.request.checksum) {
    ++op.unsummed;
    landed_.push_back(&ticket);
  }
  if (op.quiescent()) changed_.push_back(raw(op.request.op));
}

// Soon after the bytes landed, while the cache still has them.
void progress::sum_landed() {
  for (get_ticket* ticket : landed_) {
    pull_op& op = *ticket->op;
    const piece& p = op.request.pieces[ticket->piece];
    --op.unsummed;
    if (!op.failure)
      op.checksums[ticket->piece] = checksum64({op.local_data(p), op.summed_bytes(p)});
    if (op.unsummed == 0) changed_.push_back(raw(op.request.op));
  }
  landed_.clear();
}

bool progress::copy_slice(time_point) {
  if (copies_.empty()) return false;
  pull_op& op = *copies_.front();
  copies_.pop_front();
  const std::byte* remote = op.from->region_at(op.request.remote).mapped;
  for (std::size_t budget = options_.copy_slice; budget > 0 && !op.all_begun();) {
    const piece& p = op.request.pieces[op.next_piece];
    std::size_t summed = op.request.checksum ? op.summed_bytes(p) : p.bytes;
    if (!op.copy)
      op.copy.emplace(op.local_data(p), remote + p.remote_offset, summed, op.request.checksum);
    std::size_t before = op.copy->copied();
    bool done = op.copy->advance(budget);
    budget -= std::min(budget, op.copy->copied() - before);
    if (!done) break;
    if (op.request.checksum) op.checksums[op.next_piece] = op.copy->sum();
    std::memcpy(op.local_data(p) + summed, remote + p.remote_offset + summed, p.bytes - summed);
    op.copy.reset();
    ++op.next_piece;
  }
  if (op.complete())
    changed_.push_back(raw(op.request.op));
  else
    copies_.push_back(&op);
  return true;
}

void progress::expire(time_point now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    pull_op& op = *pulls_.at(deadlines_.begin()->second);
    deadlines_.erase(deadlines_.begin());
    if (!op.failure) op.failure = {ec::deadline_exceeded, "the pull did not end by its deadline"};
    changed_.push_back(raw(op.request.op));
    if (op.quiescent() || op.from->now() == peer::state::closing) continue;
    // Bytes may still arrive: only a closed endpoint makes the destination quiescent.
    book_.count_forced_close();
    take_down(*op.from, {ec::deadline_exceeded, "a pull passed its deadline"}, false);
  }
}

void progress::settle(pull_op& op, time_point now) {
  if (!op.quiescent() || op.unsummed != 0) return;
  if (!op.failure && !op.complete()) return;
  if (op.failure) {
    std::erase(copies_, &op);
    if (op.from != nullptr) std::erase(op.from->ready, &op);
  }
  pull_done done;
  done.op = op.request.op;
  done.peer = op.request.peer;
  done.via = op.via;
  if (op.failure) {
    done.outcome = tl::unexpected(std::move(*op.failure));
  } else {
    for (const piece& p : op.request.pieces) done.bytes += p.bytes;
    done.checksums = std::move(op.checksums);
  }
  deadlines_.erase({op.request.deadline, raw(op.request.op)});
  pulls_.erase(raw(done.op));
  book_.finish(done, done.via != path::none, now);
  sink_(std::move(done));
}

void progress::settle_all(time_point now) {
  while (!changed_.empty()) {
    std::vector<std::uint64_t> batch;
    batch.swap(changed_);
    for (std::uint64_t id : batch)
      if (auto entry = pulls_.find(id); entry != pulls_.end()) settle(*entry->second, now);
  }
}

}  // namespace troupe::transport::ucx
