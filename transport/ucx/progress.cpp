#include "transport/ucx/progress.hpp"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "base/log.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::ucx {
namespace {

// Network rounds between two slices of copying: enough to serve a peer's burst, short enough to
// keep deadlines.
constexpr int network_rounds = 32;
// While an endpoint closes, look at it at least this often; UCX's event fd usually tells at once.
constexpr std::chrono::milliseconds closing_tick{10};
// The same while UCX takes no message.
constexpr std::chrono::milliseconds blocked_tick{1};
// Pages that a peer has made in its arena are mapped here so long after, if nothing else is to do.
constexpr std::chrono::milliseconds mapping_tick{1000};
// A peer that answered is waited for so much longer while its device memory is opened, behind that of others.
constexpr std::chrono::seconds longest_opening{60};

time_point give_up_at(const peer& p) {
  return p.give_up_at() + (p.welcomed() && p.opening() ? longest_opening : std::chrono::seconds(0));
}

}  // namespace

progress::progress(const ucx_options& options, const hello_key& key, worker& on, ledger& book,
                   const event_sink& sink, std::shared_ptr<inbox> ends)
    : options_(options),
      worker_(on),
      book_(book),
      sink_(sink),
      ends_(std::move(ends)),
      landing_(options.device.get(), options.staging_bytes, options.staging_rest),
      server_(on, book, options, key, ends_),
      opener_(options.device ? std::make_unique<memory_opener>(options.device) : nullptr) {}

result<void> progress::listen() {
  struct handlers {
    static ucs_status_t hello(void* self, const void* header, size_t header_bytes, void* data,
                              size_t bytes, const ucp_am_recv_param_t* param) {
      server& to = static_cast<progress*>(self)->server_;
      const auto parsed = parse<hello_header>(header, header_bytes);
      if (parsed && is_whole(param))
        to.hear_hello(*parsed, {static_cast<char*>(data), bytes});
      else
        to.refuse(refusal::malformed);
      return UCS_OK;
    }
    static ucs_status_t welcome(void* self, const void* header, size_t header_bytes, void*, size_t,
                                const ucp_am_recv_param_t*) {
      if (auto parsed = parse<welcome_header>(header, header_bytes))
        static_cast<progress*>(self)->hear_welcome(*parsed);
      return UCS_OK;
    }
    static ucs_status_t read(void* self, const void* header, size_t header_bytes, void*, size_t,
                             const ucp_am_recv_param_t*) {
      if (auto parsed = parse<read_header>(header, header_bytes))
        static_cast<progress*>(self)->server_.hear_read(*parsed,
                                                        static_cast<progress*>(self)->now_);
      return UCS_OK;
    }
    static ucs_status_t end(void* self, const void* header, size_t header_bytes, void*, size_t,
                            const ucp_am_recv_param_t*) {
      if (auto parsed = parse<end_header>(header, header_bytes))
        static_cast<progress*>(self)->server_.hear_end(*parsed);
      return UCS_OK;
    }
    static ucs_status_t data(void* self, const void* header, size_t header_bytes, void* data,
                             size_t bytes, const ucp_am_recv_param_t* param) {
      auto parsed = parse<data_header>(header, header_bytes);
      if (parsed && is_whole(param))
        static_cast<progress*>(self)->hear_data(*parsed, static_cast<std::byte*>(data), bytes);
      return UCS_OK;
    }
    // We never send a rendezvous; whoever does is not answered.
    static bool is_whole(const ucp_am_recv_param_t* param) {
      return (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;
    }
  };
  const std::pair<message, ucp_am_recv_callback_t> all[] = {{message::hello, handlers::hello},
                                                            {message::welcome, handlers::welcome},
                                                            {message::read, handlers::read},
                                                            {message::data, handlers::data},
                                                            {message::end, handlers::end}};
  for (auto [id, handler] : all) {
    ucp_am_handler_param_t param{};
    param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    param.id = static_cast<unsigned>(id);
    param.flags = UCP_AM_FLAG_WHOLE_MSG;
    param.cb = handler;
    param.arg = this;
    if (auto status = ucp_worker_set_am_recv_handler(worker_.handle(), &param); status != UCS_OK)
      return tl::unexpected(to_error(status, "setting message handlers"));
  }
  return {};
}

void progress::connect(node_address address, time_point now) {
  incarnation id = address.owner;
  auto made = std::make_unique<peer>(
      worker_, opener_.get(), std::move(address), numbers_.next(), now + options_.connect_timeout,
      [this](ticket& t, ucs_status_t status) { on_get_ended(t, status); });
  peer& p = *made;
  peers_[id] = std::move(made);
  if (id == options_.self && !options_.force_path) {
    std::vector<remote_region> own;
    for (region_id i{0}; auto r = book_.find_region(i); i = region_id{raw(i) + 1}) {
      const bool is_host = r->kind == memory_kind::host;
      own.push_back({reinterpret_cast<std::uint64_t>(r->data), r->bytes, r->kind, nullptr,
                     is_host ? r->data : nullptr, shared_memory{}, is_host ? nullptr : r->data});
    }
    p.open_local(std::move(own));
    return;
  }
  const auto on_opened = [this, ends = ends_, id, connection = p.connection()](
                             std::uint32_t region, result<const std::byte*> opened) {
    ends->put([this, id, connection, region, opened = std::move(opened)] {
      memory_opened(id, connection, region, opened);
    });
  };
  if (auto opened = p.open(options_, on_opened); !opened)
    take_down(p, std::move(opened.error()), false);
}

void progress::memory_opened(incarnation id, std::uint64_t connection, std::uint32_t region,
                             result<const std::byte*> opened) {
  const auto entry = peers_.find(id);
  if (entry != peers_.end() && entry->second->connection() == connection)
    entry->second->take_opened(region, std::move(opened));
  else if (opened)
    opener_->close(*opened);  // the peer went meanwhile
}

void progress::disconnect(incarnation id) {
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
  now_ = now;
  if (options_.device != nullptr && options_.device->polled() > 0) options_.device->poll();
  const auto ended = ends_->take();
  for (const auto& end : ended) end();
  more_ = copy_slice() || !ended.empty();
  more_ |= worker_.progress(network_rounds);
  sum_landed();
  blocked_ = false;
  for (auto& [id, p] : peers_) {
    begin_pieces(*p);
    blocked_ |= !p->flush();
  }
  begin_direct();
  begin_landings();
  more_ |= server_.round(now);
  landing_.rest(now);
  expire(now);
  sum_landed();  // what UCX ended within this round: no peer goes while a pull of it waits for its sum
  watch_peers(now);
  settle_all(now);
  if (!more_ && changed_.empty() && pulls_.empty()) more_ = map_ahead(now);
  return more_ || !changed_.empty();
}

bool progress::map_ahead(time_point now) {
  if (now < map_next_) return false;
  bool some = false;
  for (auto& [id, p] : peers_) some |= p->now() == peer::state::up && p->map_ahead();
  if (!some) map_next_ = now + mapping_tick;
  return some;
}

std::optional<time_point> progress::next_deadline() const {
  std::optional<time_point> next;
  auto consider = [&](time_point t) { next = next ? std::min(*next, t) : t; };
  if (!deadlines_.empty()) consider(deadlines_.begin()->first);
  for (const auto& [id, p] : peers_) {
    if (p->now() == peer::state::connecting) consider(give_up_at(*p));
    if (p->now() == peer::state::closing) consider(clock::now() + closing_tick);
    if (p->now() == peer::state::up && p->maps() && pulls_.empty()) consider(map_next_);
  }
  // Only a device that is lost lets a deadline pass: it must be asked.
  for (const auto& [id, op] : pulls_)
    if (op->failure && op->outstanding > 0) consider(clock::now() + closing_tick);
  if (blocked_ || server_.blocked()) consider(clock::now() + blocked_tick);
  if (server_.closing()) consider(clock::now() + closing_tick);
  for (auto rests : {landing_.rests_at(), server_.rests_at()})
    if (rests) consider(*rests);
  return next;
}

void progress::close_all() {
  for (auto& [id, p] : peers_)
    if (p->now() != peer::state::closing)
      take_down(*p, {ec::canceled, "the transport is closing"}, true);
  server_.close_all();
}

void progress::bring_up(peer& p) {
  const auto own = book_.find_region(region_id{0});
  auto via = p.greet(own ? own->kind : memory_kind::host);
  if (!via) return take_down(p, std::move(via.error()), false);
  book_.up(p.id(), *via, report_path(p, *via));
  sink_(peer_up{p.id(), *via});
  map_next_ = {};
  for (auto& [id, op] : pulls_)
    if (op->from == &p && !op->failure) place(*op);
  more_ = true;
}

bool progress::report_path(const peer& p, path via) const {
  std::string why;
  if (via == path::staged_shm || via == path::staged_tcp)
    why = p.not_opened().empty() ? "the peer's KV is in host memory" : p.not_opened();
  if (via != path::rdma && !p.not_mapped().empty())
    why = "it is on this host, but its memory cannot be mapped: " + p.not_mapped();
  if (!why.empty()) {
    spdlog::warn("KV blocks from {:x} come over {}, which is slow: {}", raw(p.id()), to_string(via),
                 why);
  } else if (options_.device != nullptr) {
    spdlog::info("KV blocks from {:x} come over {}", raw(p.id()), to_string(via));
  }
  return !why.empty();
}

void progress::take_down(peer& p, error reason, bool by_us) {
  book_.going_down(p.id());
  if (by_us) closed_by_us_.insert(p.id());
  ec code = by_us ? ec::canceled : ec::peer_lost;
  for (auto& [id, op] : pulls_) {
    if (op->from != &p) continue;
    end_reads(*op);
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
    if (p.now() == peer::state::connecting && p.welcomed() && !p.opening()) bring_up(p);
    if (p.now() != peer::state::closing && p.failure() != UCS_OK) {
      error reason = to_error(p.failure(), "connected to the peer");
      reason.code = ec::peer_lost;
      take_down(p, std::move(reason), false);
    } else if (p.now() == peer::state::connecting && now >= give_up_at(p)) {
      take_down(p,
                {ec::deadline_exceeded,
                 p.welcomed() ? "the peer's GPU memory could not be opened in time"
                              : "the peer did not answer in time (it answers nobody who lacks the "
                                "cluster's secret)"},
                false);
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
  std::tie(op.by, op.via) = op.from->way(op.from->region_at(op.request.remote), op.local.kind);
  if (op.by == mover::none) {
    op.failure = {ec::unsupported,
                  "a node does not pull from its own GPU memory into its host memory"};
    changed_.push_back(raw(op.request.op));
    return;
  }
  book_.begin(op.via, clock::now());
  const std::size_t pieces = op.request.pieces.size();
  if (op.request.checksum) op.checksums.resize(pieces);
  if (op.request.checksum && op.local.kind == memory_kind::cuda) op.fences.resize(pieces);
  if (op.by == mover::device) return direct_.push_back(&op);
  if (op.by != mover::copy || op.is_staged()) op.tickets.resize(pieces);
  if (op.by == mover::copy)
    copies_.push_back(&op);
  else
    op.from->ready.push_back(&op);
}

void progress::begin_pieces(peer& p) {
  while (!p.ready.empty() && p.busy < options_.max_gets) {
    pull_op& op = *p.ready.front();
    auto index = static_cast<std::uint32_t>(op.next_piece);
    ticket& t = op.tickets[index];
    t.op = &op;
    t.piece = index;
    std::byte* to = op.failure || op.by == mover::get ? nullptr : landing(op, t);
    if (!op.failure && op.by == mover::messages && to == nullptr) break;  // a slot will come back
    p.ready.pop_front();
    if (op.failure) continue;
    ++op.next_piece;
    if (!op.all_begun()) p.ready.push_back(&op);
    ++p.busy;
    more_ = true;
    if (op.by == mover::get) {
      p.get(t);
      continue;
    }
    ++op.asked;
    t.id = numbers_.next();
    const piece& wanted = op.piece_of(t);
    t.copy.emplace(to, op.summed_bytes(wanted), op.request.checksum);
    wanted_[t.id] = &t;
    p.ask(t, now_);
  }
}

void progress::hear_welcome(const welcome_header& welcome) {
  for (auto& [id, p] : peers_)
    if (p->connection() == welcome.connection && p->now() == peer::state::connecting)
      p->hear_welcome(welcome);
}

// Bytes come in order and are copied here and now, or not at all: nothing can land in a piece that was given up.
void progress::hear_data(const data_header& header, const std::byte* bytes, std::size_t size) {
  auto entry = wanted_.find(header.ticket);
  if (entry == wanted_.end()) return;
  ticket& t = *entry->second;
  pull_op& op = *t.op;
  if (op.failure) return;
  const piece& wanted = op.piece_of(t);
  std::uint64_t left = wanted.bytes - t.arrived;
  bool fits = header.offset == t.arrived && size > 0 && size <= left &&
              (size % summing_copy::granule == 0 || size == left);
  if (header.refused != 0 || !fits) {
    op.failure = {ec::io_error, header.refused != 0 ? "the owner refused to read that range"
                                                    : "the owner sent other bytes than asked for"};
    changed_.push_back(raw(op.request.op));
    return;
  }
  std::size_t summed = std::min(size, t.copy->left());
  t.copy->append(bytes, summed);
  std::byte* to = t.slot != nullptr ? t.slot : op.local_data(wanted);
  std::memcpy(to + t.arrived + summed, bytes + summed, size - summed);
  t.arrived += size;
  if (size < left) return;
  if (op.request.checksum) op.checksums[t.piece] = t.copy->sum();
  wanted_.erase(entry);
  t.id = 0;
  if (t.slot != nullptr) return arrived(t);
  --op.asked;
  --op.from->busy;
  if (op.complete()) changed_.push_back(raw(op.request.op));
}

// Else the owner would send for nobody, until the time of the pull is over.
void progress::end_reads(const pull_op& op) {
  for (const ticket& t : op.tickets)
    if (t.id != 0) op.from->end(t);
}

void progress::forget_tickets(pull_op& op) {
  if (op.from->now() == peer::state::up) end_reads(op);
  for (ticket& t : op.tickets) {
    if (t.landing) continue;  // the device has the slot; landed() ends it
    if (t.slot != nullptr) {
      std::erase(arrived_, &t);
      give_back(t);
      if (t.id == 0 && op.by == mover::messages) --op.from->busy;
    }
    if (t.id == 0) continue;
    wanted_.erase(t.id);
    t.id = 0;
    --op.from->busy;
  }
}

void progress::on_get_ended(ticket& t, ucs_status_t status) {
  pull_op& op = *t.op;
  --op.from->busy;
  if (status != UCS_OK && !op.failure) {
    op.failure = to_error(status, "pulling");
    if (status == UCS_ERR_CANCELED) op.failure->code = ec::peer_lost;
  }
  if (!op.failure && op.request.checksum) {
    ++op.unsummed;
    landed_.push_back(&t);
  }
  if (op.quiescent()) changed_.push_back(raw(op.request.op));
}

// Soon after the bytes landed, while the cache still has them.
void progress::sum_landed() {
  for (ticket* t : landed_) {
    pull_op& op = *t->op;
    const piece& p = op.piece_of(*t);
    --op.unsummed;
    if (!op.failure) op.checksums[t->piece] = checksum64({op.local_data(p), op.summed_bytes(p)});
    if (op.unsummed == 0) changed_.push_back(raw(op.request.op));
  }
  landed_.clear();
}

bool progress::copy_slice() {
  if (copies_.empty()) return false;
  pull_op& op = *copies_.front();
  copies_.pop_front();
  if (op.failure) return true;  // its peer's mapping may be gone; settle() ends it
  constexpr std::size_t granule = summing_copy::granule;
  const std::byte* remote = op.from->region_at(op.request.remote).mapped;
  for (std::size_t budget = options_.copy_slice; budget > 0 && !op.all_begun();) {
    const piece& p = op.request.pieces[op.next_piece];
    if (!begin_copy(op)) {
      starved_.push_back(&op);
      return true;
    }
    std::size_t slice = std::min((budget + granule - 1) / granule * granule, op.copy->left());
    op.copy->append(remote + p.remote_offset + op.copy->copied(), slice);
    budget -= std::min(budget, slice);
    if (!op.copy->done()) break;
    std::size_t summed = op.copy->copied();
    if (op.request.checksum) op.checksums[op.next_piece] = op.copy->sum();
    std::byte* to = op.is_staged() ? op.tickets[op.next_piece].slot : op.local_data(p);
    std::memcpy(to + summed, remote + p.remote_offset + summed, p.bytes - summed);
    op.copy.reset();
    ++op.next_piece;
    if (op.is_staged()) arrived(op.tickets[op.next_piece - 1]);
  }
  if (op.complete())
    changed_.push_back(raw(op.request.op));
  else if (!op.all_begun())
    copies_.push_back(&op);
  return true;
}

bool progress::begin_copy(pull_op& op) {
  if (op.copy) return true;
  const piece& p = op.request.pieces[op.next_piece];
  std::byte* to = op.local_data(p);
  if (op.is_staged()) {
    ticket& t = op.tickets[op.next_piece];
    t.op = &op;
    t.piece = static_cast<std::uint32_t>(op.next_piece);
    to = landing(op, t);
    if (to == nullptr) return false;
    ++op.asked;
  }
  op.copy.emplace(to, op.summed_bytes(p), op.request.checksum);
  return true;
}

void progress::expire(time_point now) {
  if (options_.device != nullptr)
    for (const auto& [id, op] : pulls_)
      if (op->failure && op->outstanding > 0) {
        options_.device->poll();
        break;
      }
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    pull_op& op = *pulls_.at(deadlines_.begin()->second);
    deadlines_.erase(deadlines_.begin());
    if (!op.failure) op.failure = {ec::deadline_exceeded, "the pull did not end by its deadline"};
    changed_.push_back(raw(op.request.op));
    if (op.quiescent() || op.from->now() == peer::state::closing) continue;
    if (op.by != mover::get) continue;  // what the device has begun ends soon by itself
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
    std::erase(starved_, &op);
    std::erase(direct_, &op);
    if (op.from != nullptr) {
      std::erase(op.from->ready, &op);
      forget_tickets(op);
    }
    more_ = true;  // what it gives back, others may wait for
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
    done.fences = std::move(op.fences);
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
