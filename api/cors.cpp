#include "api/cors.hpp"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

namespace troupe::api {
namespace {

constexpr std::size_t max_asked_headers = 4096;  // bytes

result<std::vector<std::string>> split(const std::string& text) {
  if (text.starts_with('[')) {
    const auto list = nlohmann::json::parse(text, nullptr, false);
    std::vector<std::string> out;
    for (const auto& one : list) {
      if (!one.is_string()) break;
      out.push_back(one.get<std::string>());
    }
    if (!list.is_array() || out.size() != list.size())
      return fail(ec::invalid_argument, "--allowed-origins " + text + " is no list of origins");
    return out;
  }
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    out.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  return out;
}

// Scheme, host and port as browsers send them: nothing behind them, all in lower case.
bool is_origin(std::string_view text) {
  const auto scheme = text.find("://");
  if (scheme == std::string_view::npos || scheme == 0) return false;
  const auto rest = text.substr(scheme + 3);
  return !rest.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c > ' ' && c < 0x7F && !(c >= 'A' && c <= 'Z') && c != '"' && c != ',' && c != '*';
  }) && rest.find_first_of("/?#@") == std::string_view::npos;
}

// Names of headers with commas and blanks between: harmless to send back.
bool are_header_names(std::string_view text) {
  return text.size() <= max_asked_headers &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_' || c == ',' || c == ' ';
         });
}

bool same_name(std::string_view a, std::string_view b) {
  const auto lower = [](unsigned char c) { return std::tolower(c); };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace

result<cors> cors::make(const std::vector<std::string>& texts) {
  cors out;
  for (const auto& text : texts) {
    TROUPE_TRY(const auto origins, split(text));
    for (const auto& origin : origins) {
      if (origin == "*") {
        out.any_ = true;
        continue;
      }
      if (!is_origin(origin))
        return fail(ec::invalid_argument,
                    "--allowed-origins: '" + origin +
                        "' is no origin, such as https://chat.example or http://localhost:3000");
      out.origins_.push_back(origin);
    }
  }
  return out;
}

bool cors::allows(std::string_view origin) const {
  if (origin.empty()) return false;
  return any_ || std::find(origins_.begin(), origins_.end(), origin) != origins_.end();
}

bool cors::refuses(const http_request& request) const {
  if (request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS")
    return false;
  const auto origin = request.header("origin");
  if (origin.empty() || allows(origin)) return false;
  // No page can set this one (https://www.w3.org/TR/fetch-metadata/). It is right behind proxies that change the host,
  // but browsers send it only over TLS and to the machine itself.
  if (request.header("sec-fetch-site") == "same-origin") return false;
  const auto scheme = origin.find("://");
  return scheme == std::string_view::npos ||
         !same_name(origin.substr(scheme + 3), request.header("host"));
}

void cors::decorate(const http_request& request, http_response& response) const {
  if (!any_ && origins_.empty()) return;
  // Caches must not give one origin's answer to another.
  if (!any_) response.headers.emplace_back("Vary", "Origin");
  const auto origin = request.header("origin");
  if (!allows(origin)) return;
  response.headers.emplace_back("Access-Control-Allow-Origin", any_ ? "*" : std::string(origin));
  response.headers.emplace_back("Access-Control-Expose-Headers",
                                "X-Request-Id, Retry-After, X-Troupe-Warning");
}

std::optional<http_response> cors::preflight(const http_request& request) const {
  const bool asks =
      request.method == "OPTIONS" && !request.header("access-control-request-method").empty();
  if (!asks || !allows(request.header("origin"))) return std::nullopt;
  http_response response;  // an empty one; decorate() does the rest
  response.content_type = "text/plain";
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, HEAD, POST");
  // OpenAI's client for browsers brings a dozen headers of its own: whatever is asked for is no risk here.
  const auto headers = request.header("access-control-request-headers");
  if (!headers.empty() && are_header_names(headers))
    response.headers.emplace_back("Access-Control-Allow-Headers", std::string(headers));
  response.headers.emplace_back("Access-Control-Max-Age", "600");
  return response;
}

}  // namespace troupe::api
