#include "transport/ucx/peer.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "base/log.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::ucx {

namespace {

// The first word of a host_identity().
std::string_view boot_of(std::string_view identity) {
  return identity.substr(0, identity.find(' '));
}

}  // namespace

std::size_t pull_op::summed_bytes(const piece& p) const {
  return request.checksum ? p.bytes - fence_bytes : p.bytes;
}

peer::peer(worker& on, memory_opener* opener, node_address address, std::uint64_t connection,
           time_point give_up_at, get_ended on_get_ended)
    : worker_(on),
      opener_(opener),
      address_(std::move(address)),
      connection_(connection),
      give_up_at_(give_up_at),
      get_ended_(std::move(on_get_ended)) {}

peer::~peer() {
  TROUPE_ASSERT(gone());
  drop_keys();
  if (is_local_ || opener_ == nullptr) return;
  for (const remote_region& r : regions_)
    if (r.opened != nullptr) opener_->close(r.opened);
}

void peer::open_local(std::vector<remote_region> own) {
  regions_ = std::move(own);
  is_local_ = true;
  welcome_ = welcome_header{connection_, 0};
}

bool peer::maps() const {
  return std::ranges::any_of(regions_,
                             [](const remote_region& r) { return r.mapping.data() != nullptr; });
}

bool peer::map_ahead() {
  for (remote_region& r : regions_)
    if (r.mapping.data() != nullptr && r.mapping.map_ahead()) return true;
  return false;
}

result<void> peer::add_region(const published_region& published, bool may_map,
                              const memory_opened& on_opened) {
  remote_region& made = regions_.emplace_back();
  made.base = published.base;
  made.bytes = published.bytes;
  made.kind = published.kind;
  if (may_map && published.share.process != 0) {
    auto mapping = shared_memory::open(published.share, published.bytes);
    if (mapping) {
      made.mapping = std::move(*mapping);
      made.mapped = made.mapping.data();
      return {};
    }
    not_mapped_ = mapping.error().detail;
  }
  if (published.kind == memory_kind::cuda) open_for_device(published, on_opened);
  if (published.key.empty() || !worker_.serves_gets(published.kind)) return {};
  auto status = ucp_ep_rkey_unpack(endpoint_.handle(), published.key.data(), &made.key);
  if (status != UCS_OK) return tl::unexpected(to_error(status, "unpacking a peer's memory key"));
  return {};
}

void peer::open_for_device(const published_region& published, const memory_opened& on_opened) {
  if (forced_ && *forced_ != path::cuda_ipc) return;
  if (opener_ == nullptr) {
    not_opened_ = "this node's KV is in host memory, the peer's on a GPU";
  } else if (published.device_share.empty()) {
    not_opened_ = "the peer's GPU does not share its memory";
  } else if (address_.host != host_identity()) {
    not_opened_ = "the peer's GPU is in another host or container";
  } else {
    ++opening_;
    opener_->open(published.device_share, published.bytes,
                  [on_opened, region = static_cast<std::uint32_t>(regions_.size() - 1)](
                      result<const std::byte*> opened) { on_opened(region, std::move(opened)); });
  }
}

void peer::take_opened(std::uint32_t region, result<const std::byte*> opened) {
  --opening_;
  if (opened)
    regions_.at(region).opened = *opened;
  else
    not_opened_ = std::move(opened.error().detail);
}

result<void> peer::open(const ucx_options& options, const memory_opened& on_opened) {
  forced_ = options.force_path;
  TROUPE_CHECK(endpoint_.open(worker_, address_.worker));
  const bool same_host = address_.host == host_identity();
  bool may_map = forced_ ? *forced_ == path::shm || *forced_ == path::staged_shm : same_host;
  if (!forced_ && !same_host && boot_of(address_.host) == boot_of(host_identity()) &&
      std::ranges::any_of(address_.regions, [](const auto& r) { return r.share.process != 0; }))
    not_mapped_ = "it is in another container, with PID and IPC namespaces of its own";
  for (const published_region& published : address_.regions)
    TROUPE_CHECK(add_region(published, may_map, on_opened));
  endpoint_.post(message::hello,
                 hello_header{key_of(address_, options.secret), raw(options.self), connection_},
                 worker_.address());
  return {};
}

void peer::hear_welcome(const welcome_header& welcome) {
  if (!welcome_) welcome_ = welcome;
}

result<path> peer::greet(memory_kind to) {
  state_ = state::up;
  if (is_local_) return path::local;
  learn_paths();
  path slowest = path::none;
  for (const remote_region& r : regions_)
    if (auto via = way(r, to).second;
        slowest == path::none || (via != path::shm && via != path::cuda_ipc))
      slowest = via;
  if (slowest == path::none) slowest = path::tcp;  // a peer that shows no memory
  if (forced_ && slowest != *forced_)
    return fail(ec::unsupported, "path " + std::string(to_string(*forced_)) +
                                     " was asked for but only " + std::string(to_string(slowest)) +
                                     " leads to the peer");
  return slowest;
}

// UCX 1.13 tells which lanes an endpoint has in text only.
void peer::learn_paths() {
  char* text = nullptr;
  std::size_t bytes = 0;
  FILE* stream = ::open_memstream(&text, &bytes);
  if (stream == nullptr) return;
  ucp_ep_print_info(endpoint_.handle(), stream);
  std::fclose(stream);
  std::string_view info(text, bytes);
  auto has = [&](std::string_view name) { return info.find(name) != info.npos; };
  has_rdma_ = has("rc_") || has("dc_");
  std::free(text);
}

std::pair<mover, path> peer::way(const remote_region& from, memory_kind to) const {
  bool is_host = from.kind == memory_kind::host && to == memory_kind::host;
  if (from.mapped != nullptr && is_host) return {mover::copy, is_local_ ? path::local : path::shm};
  if (from.opened != nullptr && to == memory_kind::cuda)
    return {mover::device, is_local_ ? path::local : path::cuda_ipc};
  // `rdma` forced on a machine without it: UCX's own get over whatever there is.
  if (from.key != nullptr && (has_rdma_ || forced_ == path::rdma)) return {mover::get, path::rdma};
  if (from.mapped != nullptr && to == memory_kind::cuda) return {mover::copy, path::staged_shm};
  if (is_local_) return {mover::none, path::none};
  return {mover::messages, is_host ? path::tcp : path::staged_tcp};
}

void peer::ask(const ticket& t, time_point now) {
  const pull_op& op = *t.op;
  const piece& p = op.piece_of(t);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(op.request.deadline - now).count();
  const auto within = std::clamp<std::int64_t>(left, 1, std::numeric_limits<std::uint32_t>::max());
  endpoint_.post(message::read,
                 read_header{welcome_->client, t.id, p.remote_offset, p.bytes,
                             raw(op.request.remote), static_cast<std::uint32_t>(within)});
}

void peer::end(const ticket& t) {
  endpoint_.post(message::end, end_header{welcome_->client, t.id});
}

void peer::get(ticket& t) {
  pull_op& op = *t.op;
  const piece& p = op.piece_of(t);
  const remote_region& from = region_at(op.request.remote);
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.send = on_get;
  param.user_data = &t;
  param.memory_type =
      op.local.kind == memory_kind::cuda ? UCS_MEMORY_TYPE_CUDA : UCS_MEMORY_TYPE_HOST;
  ++gets_;
  ++op.outstanding;
  auto request = ucp_get_nbx(endpoint_.handle(), op.local_data(p), p.bytes,
                             from.base + p.remote_offset, from.key, &param);
  // Done or failed at once: UCX does not call back.
  if (request == nullptr || UCS_PTR_IS_ERR(request)) on_get(nullptr, UCS_PTR_STATUS(request), &t);
}

void peer::on_get(void* request, ucs_status_t status, void* data) {
  auto& t = *static_cast<ticket*>(data);
  peer& self = *t.op->from;
  if (request != nullptr) ucp_request_free(request);
  TROUPE_ASSERT(self.gets_ > 0);
  TROUPE_ASSERT(t.op->outstanding > 0);
  --self.gets_;
  --t.op->outstanding;
  self.get_ended_(t, status);
}

void peer::close(error reason) {
  TROUPE_ASSERT(state_ != state::closing);
  state_ = state::closing;
  reason_ = std::move(reason);
  // Keys go before their endpoint when nothing uses them; else after the last get has ended.
  if (gets_ == 0) drop_keys();
  endpoint_.close();
}

void peer::drop_keys() {
  for (remote_region& r : regions_) {
    if (r.key != nullptr) ucp_rkey_destroy(r.key);
    r.key = nullptr;
  }
}

}  // namespace troupe::transport::ucx
