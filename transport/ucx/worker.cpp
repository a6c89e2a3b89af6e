#include "transport/ucx/worker.hpp"

#include <ucs/config/global_opts.h>
#include <ucs/debug/log_def.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "base/log.hpp"
#include "transport/ucx/devices.hpp"

namespace troupe::transport::ucx {
namespace {

// UCX writes to standard output by itself, which belongs to the user's answer.
ucs_log_func_rc_t log_ucx(const char*, unsigned, const char*, ucs_log_level_t level,
                          const ucs_log_component_config_t*, const char* format,
                          va_list arguments) {
  char text[512];
  std::vsnprintf(text, sizeof text, format, arguments);
  // Its errors are mostly peers that died, which we tell of ourselves.
  spdlog::level::level_enum at = spdlog::level::debug;
  if (level <= UCS_LOG_LEVEL_ERROR) at = spdlog::level::warn;
  if (level <= UCS_LOG_LEVEL_FATAL) at = spdlog::level::err;
  spdlog::log(at, "ucx: {}", text);
  return UCS_LOG_FUNC_RC_STOP;
}

// Found to work by trial (notes/platform.md, D7-D10). Whoever sets them in the environment wins.
void set_defaults() {
  // setenv is not safe beside getenv in other threads: once, at the first fabric of the process.
  static std::once_flag once;
  std::call_once(
      once, [] {
        constexpr std::pair<const char*, const char*> defaults[] = {
            {"UCX_TCP_TX_SEG_SIZE", "128K"},  // twice the throughput of the default
            {"UCX_TCP_RX_SEG_SIZE", "128K"},
            {"UCX_TCP_CONN_NB", "y"},  // else ep_create blocks for minutes on a host that is gone
            {"UCX_TCP_KEEPIDLE", "1s"},
            {"UCX_TCP_KEEPINTVL", "300ms"},
            {"UCX_TCP_KEEPCNT", "3"},
        };
        for (auto [name, value] : defaults) ::setenv(name, value, 0);
        // Read when the library was loaded, so the environment is too late for it.
        ucs_global_opts_set_value("WARN_UNUSED_ENV_VARS", "n");
        ucs_log_push_handler(log_ucx);
      });
}

// `devices`: those that net_devices() allows; cards go by "name:port".
bool may_use_rdma(const std::string& devices) {
  return has_rdma_device() && (devices.empty() || devices.find(':') != devices.npos);
}

std::string transports_of(const ucx_options& options, bool rdma) {
  if (!options.transports.empty()) return options.transports;
  std::string list = "tcp,posix,self";
  if (rdma) list += ",ib";
  // So that a network card reads GPU memory itself, where UCX and the card can.
  if (options.device != nullptr && rdma) list += ",cuda_copy";
  return list;
}

// Without it UCX does not answer remote reads and writes that it emulates over TCP, which reach any address.
bool wants_gets(const ucx_options& options, bool rdma) {
  return rdma || options.force_path == path::rdma;
}

ucs_memory_type_t memory_type(memory_kind kind) {
  return kind == memory_kind::cuda ? UCS_MEMORY_TYPE_CUDA : UCS_MEMORY_TYPE_HOST;
}

}  // namespace

error to_error(ucs_status_t status, const std::string& while_doing) {
  ec code = ec::io_error;
  switch (status) {
    case UCS_ERR_CANCELED:
      code = ec::canceled;
      break;
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_EXCEEDS_LIMIT:
      code = ec::out_of_memory;
      break;
    case UCS_ERR_UNSUPPORTED:
    case UCS_ERR_NOT_IMPLEMENTED:
      code = ec::unsupported;
      break;
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      code = ec::invalid_argument;
      break;
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_REJECTED:
    case UCS_ERR_TIMED_OUT:
      code = ec::peer_lost;
      break;
    default:
      break;
  }
  return {code, std::string(ucs_status_string(status)) + " while " + while_doing};
}

result<std::unique_ptr<worker>> worker::make(const ucx_options& options) {
  std::unique_ptr<worker> made(new worker);
  TROUPE_CHECK(made->start(options));
  return made;
}

result<void> worker::start(const ucx_options& options) {
  set_defaults();
  std::string devices;
  if (std::getenv("UCX_NET_DEVICES") == nullptr) {
    TROUPE_TRY(devices, net_devices(options.host));
  }
  const bool rdma = may_use_rdma(devices);
  ucp_config_t* config = nullptr;
  if (auto status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK)
    return tl::unexpected(to_error(status, "reading the UCX configuration"));
  ucs_status_t status = UCS_OK;
  if (std::getenv("UCX_TLS") == nullptr)
    status = ucp_config_modify(config, "TLS", transports_of(options, rdma).c_str());
  if (status == UCS_OK && !devices.empty())
    status = ucp_config_modify(config, "NET_DEVICES", devices.c_str());
  if (status == UCS_OK) {
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    serves_gets_ = wants_gets(options, rdma);
    if (serves_gets_) params.features |= UCP_FEATURE_RMA;
    status = ucp_init(&params, config, &context_);
  }
  ucp_config_release(config);
  if (status != UCS_OK)
    return tl::unexpected(to_error(
        status, "starting UCX (are UCX_TLS and UCX_NET_DEVICES names that ucx_info -d lists?)"));

  ucp_context_attr_t context_attr{};
  context_attr.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  if (ucp_context_query(context_, &context_attr) == UCS_OK)
    reaches_cuda_ = (context_attr.memory_types >> UCS_MEMORY_TYPE_CUDA & 1) != 0;

  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
  status = ucp_worker_create(context_, &worker_params, &worker_);
  if (status == UCS_OK) status = ucp_worker_get_efd(worker_, &event_fd_);
  ucp_address_t* address = nullptr;
  std::size_t bytes = 0;
  if (status == UCS_OK) status = ucp_worker_get_address(worker_, &address, &bytes);
  if (status != UCS_OK) return tl::unexpected(to_error(status, "starting a UCX worker"));
  address_.assign(reinterpret_cast<const char*>(address), bytes);
  ucp_worker_release_address(worker_, address);
  return {};
}

worker::~worker() {
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

bool worker::progress(int rounds) {
  bool moved = false;
  while (rounds-- > 0 && ucp_worker_progress(worker_) != 0) moved = true;
  return moved;
}

bool worker::arm() {
  return ucp_worker_arm(worker_) == UCS_OK;
}

result<registered_memory> worker::map(std::byte* data, std::size_t bytes, memory_kind kind) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_PROT | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = data;
  params.length = bytes;
  // Peers read; nobody writes into our memory.
  params.prot =
      UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_LOCAL_WRITE | UCP_MEM_MAP_PROT_REMOTE_READ;
  params.memory_type = memory_type(kind);
  registered_memory memory;
  if (auto status = ucp_mem_map(context_, &params, &memory.handle); status != UCS_OK)
    return tl::unexpected(
        to_error(status, "registering " + std::to_string(bytes) + " bytes (see ulimit -l)"));
  void* packed = nullptr;
  std::size_t packed_bytes = 0;
  if (auto status = ucp_rkey_pack(context_, memory.handle, &packed, &packed_bytes);
      status != UCS_OK) {
    unmap(memory);
    return tl::unexpected(to_error(status, "packing a memory key"));
  }
  memory.key.assign(static_cast<const char*>(packed), packed_bytes);
  ucp_rkey_buffer_release(packed);
  return memory;
}

void worker::unmap(const registered_memory& memory) {
  ucp_mem_unmap(context_, memory.handle);
}

}  // namespace troupe::transport::ucx

namespace troupe::transport {

std::string ucx_description() {
  unsigned major = 0, minor = 0, release = 0;
  ucp_get_version(&major, &minor, &release);
  return std::to_string(major) + '.' + std::to_string(minor) + '.' + std::to_string(release);
}

}  // namespace troupe::transport
