// Which web pages of other origins may use the server (the Fetch standard's CORS protocol, https://fetch.spec.whatwg.org).
// Off unless origins are named: a browser then keeps the pages of strangers away from a server that asks for no key, as far as
// it asks before. It does not where a page's request looks like a form's, so those of strangers are refused here.
//
// Credentials in the standard's sense (cookies, the browser's own password) are never allowed: keys come in a header that
// the page's code sets. Immutable, any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/http_types.hpp"
#include "base/result.hpp"

namespace troupe::api {

class cors {
 public:
  cors() = default;  // no other origin
  // Each text is an origin ("https://chat.example"), several with commas between, or a JSON list of such, as vLLM's
  // --allowed-origins takes it; "*" is every origin.
  static result<cors> make(const std::vector<std::string>& texts);

  // The answer to a browser's question whether it may ask, still to be decorated; nothing if this is none, or of an
  // origin that may not.
  std::optional<http_response> preflight(const http_request& request) const;
  // A page that is neither the server's own nor of an origin that may asks for something to be done. Who is no browser
  // sends no origin and is never refused.
  bool refuses(const http_request& request) const;
  // Lets the page read the answer, if it may.
  void decorate(const http_request& request, http_response& response) const;

 private:
  bool allows(std::string_view origin) const;

  std::vector<std::string> origins_;
  bool any_ = false;
};

}  // namespace troupe::api
