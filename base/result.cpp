#include "base/result.hpp"

#include <cstdio>
#include <cstdlib>

namespace troupe {

std::string_view to_string(ec code) {
  switch (code) {
    case ec::none:
      return "none";
    case ec::invalid_argument:
      return "invalid_argument";
    case ec::context_exceeded:
      return "context_exceeded";
    case ec::not_found:
      return "not_found";
    case ec::io_error:
      return "io_error";
    case ec::corrupt_file:
      return "corrupt_file";
    case ec::unsupported:
      return "unsupported";
    case ec::out_of_memory:
      return "out_of_memory";
    case ec::queue_full:
      return "queue_full";
    case ec::overloaded:
      return "overloaded";
    case ec::draining:
      return "draining";
    case ec::deadline_exceeded:
      return "deadline_exceeded";
    case ec::canceled:
      return "canceled";
    case ec::peer_lost:
      return "peer_lost";
    case ec::no_worker:
      return "no_worker";
    case ec::identity_mismatch:
      return "identity_mismatch";
    case ec::fence_mismatch:
      return "fence_mismatch";
    case ec::device_lost:
      return "device_lost";
    case ec::unauthorized:
      return "unauthorized";
    case ec::address_in_use:
      return "address_in_use";
    case ec::internal:
      return "internal";
    case ec::poison:
      return "poison";
  }
  return "unknown";
}

std::string to_string(const error& e) {
  std::string text(to_string(e.code));
  if (!e.detail.empty()) text += ": " + e.detail;
  return text;
}

void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "troupe: broken invariant: %s (%s:%d)\n", expression, file, line);
  std::abort();
}

}  // namespace troupe
