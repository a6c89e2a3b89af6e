#include "transport/fabric.hpp"

namespace troupe::transport {

std::string_view to_string(path p) {
  switch (p) {
    case path::none:
      return "none";
    case path::local:
      return "local";
    case path::shm:
      return "shm";
    case path::tcp:
      return "tcp";
    case path::rdma:
      return "rdma";
    case path::cuda_ipc:
      return "cuda_ipc";
    case path::sim:
      return "sim";
    case path::staged_shm:
      return "staged_shm";
    case path::staged_tcp:
      return "staged_tcp";
  }
  return "unknown";
}

std::string_view to_string(refusal r) {
  switch (r) {
    case refusal::malformed:
      return "malformed";
    case refusal::wrong_key:
      return "wrong_key";
    case refusal::overload:
      return "overload";
  }
  return "unknown";
}

}  // namespace troupe::transport
