#include "transport/ucx/server.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace troupe::transport::ucx {
namespace {

// Chunks for one reader between two looks at the others.
constexpr int max_chunks = 8;
// A reader asks for at most max_gets pieces at a time; far more is not a reader of ours.
constexpr std::size_t max_jobs = 4096;
constexpr std::size_t max_strangers = 1024, max_clients = 4096;
constexpr std::size_t max_worker_address = 16 * 1024;
// Between two looks for reads whose readers have given up without a word.
constexpr std::chrono::milliseconds sweep_pause{100};
// Between two lines of the log about hellos that were refused.
constexpr std::chrono::seconds telling_pause{10};

}  // namespace

void server::hear_hello(const hello_header& hello, std::string_view worker_address) {
  // Before anything else of the message is looked at.
  if (!same_secret(hello.key, key_)) return refuse(refusal::wrong_key);
  if (worker_address.size() < 8 || worker_address.size() > max_worker_address)
    return refuse(refusal::malformed);
  if (strangers_.size() >= max_strangers) return refuse(refusal::overload);
  strangers_.push_back({hello, std::string(worker_address)});
}

void server::refuse(refusal why) {
  book_.count_refused(why);
  ++refused_;
  refused_last_ = why;
}

void server::tell_refused(time_point now) {
  if (refused_ == 0 || now < tell_next_) return;
  spdlog::warn(
      "transport: {} hellos were refused, the last as {}: somebody who is not of this cluster, or "
      "has another "
      "--cluster-secret-file or release, knocks at the port of KV transfers",
      std::exchange(refused_, 0), to_string(refused_last_));
  tell_next_ = now + telling_pause;
}

void server::hear_read(const read_header& read, time_point now) {
  auto entry = clients_.find(read.client);
  if (entry == clients_.end()) return;
  client& c = *entry->second;
  const time_point until = now + std::chrono::milliseconds(read.within_ms);
  if (c.jobs.size() + c.to_stage.size() >= max_jobs) return;
  auto from = book_.find_region(region_id{read.region});
  if (!from || read.offset > from->bytes || read.bytes == 0 ||
      read.bytes > from->bytes - read.offset)
    return c.jobs.push_back({read.ticket, nullptr, 0, 0, true, until, nullptr});
  const job made{read.ticket, from->data + read.offset, read.bytes, 0, false, until, nullptr};
  (from->kind == memory_kind::host ? c.jobs : c.to_stage).push_back(made);
}

void server::hear_end(const end_header& over) {
  auto entry = clients_.find(over.client);
  if (entry == clients_.end()) return;
  entry->second->staging.erase(over.ticket);
  forget(*entry->second, [&](const job& j) { return j.ticket == over.ticket; });
}

void server::forget(client& c, const std::function<bool(const job&)>& is_over) {
  for (job& j : c.jobs)
    if (is_over(j)) end(c, j);
  std::erase_if(c.jobs, is_over);
  std::erase_if(c.to_stage, is_over);
}

bool server::round(time_point now) {
  bool more = false;
  tell_refused(now);
  blocked_ = false;
  for (; !strangers_.empty(); strangers_.pop_front()) {
    welcome(strangers_.front());
    more = true;
  }
  if (now >= sweep_next_) {
    sweep_next_ = now + sweep_pause;
    for (auto& [id, c] : clients_) forget(*c, [&](const job& j) { return j.until <= now; });
  }
  for (auto next = clients_.begin(); next != clients_.end();) {
    auto entry = next++;
    client& c = *entry->second;
    stage(entry->first, c);
    if (c.back.failure() == UCS_OK) more |= serve(c);
    if (c.back.failure() == UCS_OK) continue;
    // Slots that it leaves are for readers before it as well. A round follows: the network moved when it failed, or it
    // failed in a send, which blocks.
    dismiss(entry);
  }
  std::erase_if(leaving_, [](const auto& c) { return c->back.gone(); });
  leaving_slots_.rest(now);
  return more;
}

void server::welcome(const stranger& s) {
  // One connection a process: a newer hello replaces the older one.
  for (auto entry = clients_.begin(); entry != clients_.end(); ++entry)
    if (entry->second->who == incarnation{s.hello.from}) {
      dismiss(entry);
      break;
    }
  if (clients_.size() >= max_clients) return refuse(refusal::overload);
  auto made = std::make_unique<client>();
  made->who = incarnation{s.hello.from};
  if (auto opened = made->back.open(worker_, s.address); !opened) {
    spdlog::debug("transport: cannot answer a reader: {}", to_string(opened.error()));
    return;
  }
  std::uint64_t id = numbers_.next();
  made->back.post(message::welcome, welcome_header{s.hello.connection, id});
  clients_[id] = std::move(made);
}

void server::dismiss(std::map<std::uint64_t, std::unique_ptr<client>>::iterator entry) {
  forget(*entry->second, [](const job&) { return true; });
  entry->second->back.close();
  leaving_.push_back(std::move(entry->second));
  clients_.erase(entry);
}

bool server::serve(client& c) {
  if (!c.back.flush()) {
    blocked_ = true;
    return false;
  }
  int chunks = 0;
  for (; !c.jobs.empty() && chunks < max_chunks; ++chunks) {
    job& next = c.jobs.front();
    std::uint64_t bytes = std::min<std::uint64_t>(data_chunk, next.bytes - next.sent);
    bool sent = c.back.try_send(message::data, data_header{next.ticket, next.sent, next.refused, 0},
                                {reinterpret_cast<const char*>(next.data) + next.sent, bytes});
    if (!sent) {
      blocked_ = true;
      break;
    }
    next.sent += bytes;
    if (next.sent < next.bytes)
      c.jobs.push_back(next);
    else
      end(c, next);
    c.jobs.pop_front();
  }
  return chunks > 0;
}

void server::end(client& c, job& j) {
  if (j.slot == nullptr) return;
  leaving_slots_.give_back(j.slot);
  --c.slots;
  j.slot = nullptr;
}

// The device copies ahead of what the network takes: as many ranges as there are slots.
void server::stage(std::uint64_t id, client& c) {
  while (!c.to_stage.empty()) {
    job made = c.to_stage.front();
    auto slot = leaving_slots_.take(made.bytes, c.slots);
    if (!slot && slot.error().code == ec::queue_full) return;
    result<void> begun = slot ? result<void>{} : tl::unexpected(slot.error());
    if (slot) {
      device_batch batch;
      batch.copies.push_back({*slot, made.data, made.bytes});
      made.slot = *slot;
      batch.done = [this, ends = ends_, id, made](device_done&& done) {
        ends->put([this, id, made, moved = std::make_shared<device_done>(std::move(done))] {
          staged(id, made, std::move(*moved));
        });
      };
      begun = device_->copy(std::move(batch));
      if (!begun) leaving_slots_.give_back(*slot);
      if (!begun && begun.error().code == ec::queue_full) return;
    }
    c.to_stage.pop_front();
    if (begun) {
      ++c.slots;
      c.staging.insert(made.ticket);
      continue;
    }
    spdlog::warn("transport: cannot read device memory for a peer: {}", to_string(begun.error()));
    c.jobs.push_back({made.ticket, nullptr, 0, 0, true, made.until, nullptr});
  }
}

void server::staged(std::uint64_t id, job made, device_done&& done) {
  auto entry = clients_.find(id);
  if (entry == clients_.end()) return leaving_slots_.give_back(made.slot);
  client& c = *entry->second;
  if (c.staging.erase(made.ticket) == 0) return end(c, made);  // the reader has given it up
  if (!done.outcome) {
    end(c, made);
    made = {made.ticket, nullptr, 0, 0, true, made.until, nullptr};
  } else {
    made.data = made.slot;
  }
  c.jobs.push_back(made);
}

void server::close_all() {
  strangers_.clear();
  while (!clients_.empty()) dismiss(clients_.begin());
}

}  // namespace troupe::transport::ucx
