#include "transport/ucx/server.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace troupe::transport::ucx {
namespace {

// Chunks for one reader between two looks at the others.
constexpr int max_chunks = 8;
// A reader asks for at most max_gets pieces at a time; far more is not a reader of ours.
constexpr std::size_t max_jobs = 4096;
constexpr std::size_t max_strangers = 1024;

}  // namespace

void server::hear_hello(const hello_header& hello, std::string_view worker_address) {
  if (worker_address.size() < 8 || strangers_.size() >= max_strangers) return;
  strangers_.push_back({hello, std::string(worker_address)});
}

void server::hear_read(const read_header& read) {
  auto entry = clients_.find(read.client);
  if (entry == clients_.end() || entry->second->jobs.size() >= max_jobs) return;
  job made{read.ticket, nullptr, 0, 0, true};
  auto from = book_.find_region(region_id{read.region});
  if (from && from->kind == memory_kind::host && read.offset <= from->bytes && read.bytes > 0 &&
      read.bytes <= from->bytes - read.offset)
    made = {read.ticket, from->data + read.offset, read.bytes, 0, false};
  entry->second->jobs.push_back(made);
}

bool server::round() {
  bool more = false;
  blocked_ = false;
  for (; !strangers_.empty(); strangers_.pop_front()) {
    welcome(strangers_.front());
    more = true;
  }
  for (auto next = clients_.begin(); next != clients_.end();) {
    auto entry = next++;
    client& c = *entry->second;
    if (c.back.failure() == UCS_OK) more |= serve(c);
    if (c.back.failure() != UCS_OK) dismiss(entry);
  }
  std::erase_if(leaving_, [](const auto& c) { return c->back.gone(); });
  return more;
}

void server::welcome(const stranger& s) {
  // One connection a process: a newer hello replaces the older one.
  for (auto entry = clients_.begin(); entry != clients_.end(); ++entry)
    if (entry->second->who == incarnation{s.hello.from}) {
      dismiss(entry);
      break;
    }
  auto made = std::make_unique<client>();
  made->who = incarnation{s.hello.from};
  if (auto opened = made->back.open(worker_, s.address); !opened) {
    spdlog::debug("transport: cannot answer a reader: {}", to_string(opened.error()));
    return;
  }
  std::uint64_t id = next_client_++;
  made->back.post(message::welcome, welcome_header{raw(self_), s.hello.connection, id});
  clients_[id] = std::move(made);
}

void server::dismiss(std::map<std::uint64_t, std::unique_ptr<client>>::iterator entry) {
  entry->second->jobs.clear();
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
    if (next.sent < next.bytes) c.jobs.push_back(next);
    c.jobs.pop_front();
  }
  return chunks > 0;
}

void server::close_all() {
  strangers_.clear();
  while (!clients_.empty()) dismiss(clients_.begin());
}

}  // namespace troupe::transport::ucx
