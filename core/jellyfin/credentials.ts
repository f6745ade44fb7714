// Who a request says it is: token and device, read from headers and query in Jellyfin's own order and
// syntax, and written back with another token.

export interface CredentialHeaders {
  readonly authorization?: string | undefined;
  readonly "x-emby-authorization"?: string | undefined;
  readonly "x-emby-token"?: string | undefined;
  readonly "x-mediabrowser-token"?: string | undefined;
}
export type CredentialSource =
  | "authorization"
  | "embyScheme"
  | "xEmbyAuthorization"
  | "xEmbyToken"
  | "xMediaBrowserToken"
  | "queryApiKey"
  | "query_api_key"
  | "none";
export interface Credentials {
  readonly token: string | undefined;
  readonly source: CredentialSource;
  /** A server with EnableLegacyAuthorization off would not see this token. */
  readonly legacyForm: boolean;
  /** A token was there but longer than `tokenLengthMax`: no server can know it. */
  readonly overlong: boolean;
  readonly deviceId: string | undefined;
  readonly device: string | undefined;
  readonly client: string | undefined;
  readonly version: string | undefined;
}
export const tokenLengthMax = 512;
export declare function readCredentials(
  headers: CredentialHeaders,
  rawQuery: string,
  options: { readonly legacy: boolean },
): Credentials;
/** What to send instead: a header that is undefined is to be left out. */
export interface SwappedRequest {
  readonly headers: CredentialHeaders;
  readonly rawQuery: string;
}
/** The one call a lane needs: every place that carries a token carries `newToken` afterwards. */
export declare function swapToken(
  headers: CredentialHeaders,
  rawQuery: string,
  newToken: string,
  options: { readonly translate: boolean },
): SwappedRequest;
/** The request without any token, device fields kept. */
export declare function removeToken(headers: CredentialHeaders, rawQuery: string): SwappedRequest;
export declare function replaceTokenInAuthorization(headerValue: string, newToken: string): string;
export declare function removeTokenFromAuthorization(headerValue: string): string;
export declare function replaceTokenInQuery(
  rawQuery: string,
  newToken: string,
  options?: { readonly as?: "ApiKey" },
): string;
export declare function removeTokenFromQuery(rawQuery: string): string;
export interface DeviceFields {
  readonly client?: string | undefined;
  readonly device?: string | undefined;
  readonly deviceId?: string | undefined;
  readonly version?: string | undefined;
}
/** `MediaBrowser Client="…", Device="…", DeviceId="…", Version="…", Token="…"`, percent-encoded. */
export declare function buildAuthorization(fields: DeviceFields, token?: string): string;
export declare function redactQuery(rawUrl: string): string;
export declare function redactHeader(name: string, value: string): string;
