#include "transport/ucx/devices.hpp"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>

#include <cstring>
#include <filesystem>
#include <memory>

namespace troupe::transport::ucx {
namespace {

constexpr const char* cards = "/sys/class/infiniband";

bool same_address(const sockaddr* a, const sockaddr* b) {
  if (a == nullptr || b == nullptr || a->sa_family != b->sa_family) return false;
  if (a->sa_family == AF_INET)
    return reinterpret_cast<const sockaddr_in*>(a)->sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in*>(b)->sin_addr.s_addr;
  return a->sa_family == AF_INET6 &&
         std::memcmp(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr,
                     &reinterpret_cast<const sockaddr_in6*>(b)->sin6_addr, sizeof(in6_addr)) == 0;
}

// 127.0.0.0/8 is this machine's without an interface naming each.
bool is_loopback(const sockaddr* a) {
  if (a->sa_family == AF_INET)
    return ntohl(reinterpret_cast<const sockaddr_in*>(a)->sin_addr.s_addr) >> 24 == 127;
  return a->sa_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr);
}

// "mlx5_0:1,mlx5_0:2", each after a comma.
std::string rdma_ports() {
  std::string list;
  std::error_code ignored;
  for (const auto& card : std::filesystem::directory_iterator(cards, ignored))
    for (const auto& port : std::filesystem::directory_iterator(card.path() / "ports", ignored))
      list += ',' + card.path().filename().string() + ':' + port.path().filename().string();
  return list;
}

// The interface with that address: "eth0", also where the address has a label of its own ("eth0:1").
std::string interface_of(const sockaddr* address) {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(all, ::freeifaddrs);
  for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
    const std::string name = i->ifa_name;
    if (same_address(i->ifa_addr, address)) return name.substr(0, name.find(':'));
    if (is_loopback(address) && (i->ifa_flags & IFF_LOOPBACK) != 0) return name;
  }
  return {};
}

}  // namespace

bool has_rdma_device() {
  std::error_code missing;
  bool empty = std::filesystem::is_empty(cards, missing);
  return !missing && !empty;
}

result<std::string> net_devices(const std::string& host) {
  if (host.empty() || host == "0.0.0.0" || host == "::") return std::string();
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int code = ::getaddrinfo(host.c_str(), nullptr, &hints, &found); code != 0)
    return fail(ec::invalid_argument,
                "no address is known for the cluster host " + host + ": " + ::gai_strerror(code));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next)
    if (const std::string name = interface_of(a->ai_addr); !name.empty())
      return is_loopback(a->ai_addr) ? name : name + rdma_ports();
  return fail(ec::invalid_argument,
              "no network interface of this machine has the address of the "
              "cluster host " +
                  host + ": KV blocks could not be served there");
}

}  // namespace troupe::transport::ucx
