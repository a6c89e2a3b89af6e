#include "transport/ucx/endpoint.hpp"

#include "base/log.hpp"

namespace troupe::transport::ucx {

endpoint::~endpoint() {
  TROUPE_ASSERT(gone());
}

result<void> endpoint::open(worker& on, std::string_view worker_address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(worker_address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {on_error, this};
  auto status = ucp_ep_create(on.handle(), &params, &handle_);
  if (status != UCS_OK) {
    handle_ = nullptr;
    return tl::unexpected(to_error(status, "connecting"));
  }
  closed_ = false;
  return {};
}

bool endpoint::flush() {
  while (!waiting_.empty()) {
    const posted& next = waiting_.front();
    if (!send_now(next.id, next.header, next.payload)) return false;
    waiting_.pop_front();
  }
  return true;
}

bool endpoint::send_now(message id, std::string_view header, std::string_view payload) {
  if (handle_ == nullptr || failure_ != UCS_OK) return false;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FLAG_FORCE_IMM_CMPL;
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  auto request = ucp_am_send_nbx(handle_, static_cast<unsigned>(id), header.data(), header.size(),
                                 payload.data(), payload.size(), &param);
  TROUPE_ASSERT(!UCS_PTR_IS_PTR(request));  // completed or refused, never kept
  auto status = UCS_PTR_STATUS(request);
  if (status == UCS_OK) return true;
  if (status != UCS_ERR_NO_RESOURCE) note(status);
  return false;
}

void endpoint::on_error(void* data, ucp_ep_h, ucs_status_t status) {
  static_cast<endpoint*>(data)->note(status);
}

void endpoint::close() {
  if (handle_ == nullptr) return;
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = on_closed;
  param.user_data = this;
  auto request = ucp_ep_close_nbx(handle_, &param);
  handle_ = nullptr;
  if (request == nullptr || UCS_PTR_IS_ERR(request))
    on_closed(nullptr, UCS_PTR_STATUS(request), this);
}

void endpoint::on_closed(void* request, ucs_status_t status, void* data) {
  if (request != nullptr) ucp_request_free(request);
  if (status != UCS_OK) spdlog::debug("closing an endpoint: {}", ucs_status_string(status));
  static_cast<endpoint*>(data)->closed_ = true;
}

}  // namespace troupe::transport::ucx
