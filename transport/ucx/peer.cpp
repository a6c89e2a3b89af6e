#include "transport/ucx/peer.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "base/log.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::ucx {

std::size_t pull_op::summed_bytes(const piece& p) const {
  return p.bytes - fence_bytes;
}

peer::peer(worker& on, node_address address, time_point give_up_at, get_ended on_get_ended)
    : worker_(on),
      address_(std::move(address)),
      give_up_at_(give_up_at),
      get_ended_(std::move(on_get_ended)) {}

peer::~peer() {
  TROUPE_ASSERT(gone());
  drop_keys();
}

void peer::open_local(std::vector<remote_region> own) {
  regions_ = std::move(own);
  net_path_ = cuda_path_ = path::local;
  hello_arrived_ = true;
  *hello_value_ = raw(id());
}

result<remote_region> peer::unpack(const published_region& published, bool may_map) {
  remote_region made{published.base, published.bytes, published.kind, nullptr, nullptr};
  auto status = ucp_ep_rkey_unpack(endpoint_, published.key.data(), &made.key);
  if (status != UCS_OK) return tl::unexpected(to_error(status, "unpacking a peer's memory key"));
  void* mapped = nullptr;
  if (may_map && published.kind == memory_kind::host &&
      ucp_rkey_ptr(made.key, published.base, &mapped) == UCS_OK) {
    made.mapped = static_cast<const std::byte*>(mapped);
    // We only read: let the hardware hold us to it. A mapping that does not begin at a page stays
    // as it is.
    ::mprotect(mapped, published.bytes, PROT_READ);
  }
  return made;
}

result<void> peer::open(bool may_map, bool may_get) {
  if (address_.worker.size() < 8)
    return fail(ec::invalid_argument, "the peer has no worker address");
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address_.worker.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {on_endpoint_error, this};
  auto status = ucp_ep_create(worker_.handle(), &params, &endpoint_);
  if (status != UCS_OK) return tl::unexpected(to_error(status, "connecting"));
  closed_ = false;
  TROUPE_TRY(hello_, unpack(address_.hello, may_map));
  // A mapping of something else would show another number here.
  bool maps = hello_.mapped != nullptr &&
              *reinterpret_cast<const std::uint64_t*>(hello_.mapped) == raw(id());
  if (!maps && !may_get)
    return fail(ec::unsupported, "the peer's memory cannot be mapped and gets are switched off");
  for (const published_region& published : address_.regions) {
    TROUPE_TRY(remote_region made, unpack(published, maps));
    regions_.push_back(made);
  }
  ucp_request_param_t get{};
  get.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  get.cb.send = on_hello;
  get.user_data = this;
  hello_pending_ = true;
  auto request = ucp_get_nbx(endpoint_, hello_value_.get(), sizeof(std::uint64_t),
                             address_.hello.base, hello_.key, &get);
  if (request == nullptr || UCS_PTR_IS_ERR(request))
    on_hello(nullptr, UCS_PTR_STATUS(request), this);
  return {};
}

result<path> peer::greet() {
  if (*hello_value_ != raw(id()))
    return fail(ec::peer_lost, "another process answers at the peer's address: it was restarted");
  state_ = state::up;
  if (endpoint_ == nullptr) return path::local;
  learn_paths();
  for (const remote_region& r : regions_)
    if (r.mapped == nullptr) return get_path(r.kind);
  return regions_.empty() ? net_path_ : path::shm;
}

// UCX 1.13 tells which lanes an endpoint has in text only.
void peer::learn_paths() {
  char* text = nullptr;
  std::size_t bytes = 0;
  FILE* stream = ::open_memstream(&text, &bytes);
  if (stream == nullptr) return;
  ucp_ep_print_info(endpoint_, stream);
  std::fclose(stream);
  std::string_view info(text, bytes);
  auto has = [&](std::string_view name) { return info.find(name) != info.npos; };
  if (has("rc_") || has("dc_") || has("ud_")) net_path_ = path::rdma;
  cuda_path_ = has("cuda_ipc") ? path::cuda_ipc : net_path_;
  std::free(text);
}

void peer::get(get_ticket& ticket) {
  pull_op& op = *ticket.op;
  const piece& p = op.request.pieces[ticket.piece];
  const remote_region& from = region_at(op.request.remote);
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.send = on_get;
  param.user_data = &ticket;
  param.memory_type =
      op.local.kind == memory_kind::cuda ? UCS_MEMORY_TYPE_CUDA : UCS_MEMORY_TYPE_HOST;
  ++outstanding_;
  ++op.outstanding;
  auto request = ucp_get_nbx(endpoint_, op.local_data(p), p.bytes, from.base + p.remote_offset,
                             from.key, &param);
  // Done or failed at once: UCX does not call back.
  if (request == nullptr || UCS_PTR_IS_ERR(request))
    on_get(nullptr, UCS_PTR_STATUS(request), &ticket);
}

void peer::on_get(void* request, ucs_status_t status, void* data) {
  auto& ticket = *static_cast<get_ticket*>(data);
  peer& self = *ticket.op->from;
  if (request != nullptr) ucp_request_free(request);
  TROUPE_ASSERT(self.outstanding_ > 0);
  TROUPE_ASSERT(ticket.op->outstanding > 0);
  --self.outstanding_;
  --ticket.op->outstanding;
  self.get_ended_(ticket, status);
}

void peer::on_hello(void* request, ucs_status_t status, void* data) {
  peer& self = *static_cast<peer*>(data);
  if (request != nullptr) ucp_request_free(request);
  self.hello_pending_ = false;
  self.hello_arrived_ = status == UCS_OK;
  if (status != UCS_OK && self.failure_ == UCS_OK) self.failure_ = status;
}

void peer::on_endpoint_error(void* data, ucp_ep_h, ucs_status_t status) {
  peer& self = *static_cast<peer*>(data);
  if (self.failure_ == UCS_OK) self.failure_ = status;
}

void peer::close(error reason) {
  TROUPE_ASSERT(state_ != state::closing);
  state_ = state::closing;
  reason_ = std::move(reason);
  if (endpoint_ == nullptr) return;
  // Keys go before their endpoint when nothing uses them; else after the last get has ended.
  if (outstanding_ == 0 && !hello_pending_) drop_keys();
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = on_closed;
  param.user_data = this;
  auto request = ucp_ep_close_nbx(endpoint_, &param);
  if (request == nullptr || UCS_PTR_IS_ERR(request))
    on_closed(nullptr, UCS_PTR_STATUS(request), this);
}

void peer::on_closed(void* request, ucs_status_t status, void* data) {
  peer& self = *static_cast<peer*>(data);
  if (request != nullptr) ucp_request_free(request);
  if (status != UCS_OK) spdlog::debug("closing an endpoint: {}", ucs_status_string(status));
  self.closed_ = true;
  self.endpoint_ = nullptr;
}

void peer::drop_keys() {
  for (remote_region& r : regions_) {
    if (r.key != nullptr) ucp_rkey_destroy(r.key);
    r.key = nullptr;
    r.mapped = nullptr;
  }
  if (hello_.key != nullptr) ucp_rkey_destroy(hello_.key);
  hello_.key = nullptr;
  hello_.mapped = nullptr;
}

}  // namespace troupe::transport::ucx
